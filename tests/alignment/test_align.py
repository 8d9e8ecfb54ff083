"""`pluralllm align` from end to end, on a made-up survey and a reward model that knows nothing."""

import json
import re
import sys

import numpy as np
import pytest
from peft import PeftModel
from transformers import AutoModelForCausalLM

from alignment.config import AlignConfig
from task.config import EncoderConfig
from task.encoder import saved_settings
from tests.cli.command import make_command
from tests.task.examples import make_predictor

GROUPS = ("Northern farmers", "Northern students", "Northern teachers")
SETTINGS = (
    "data.synthetic-groups=3",
    "data.synthetic-questions=30",
    "data.synthetic-answered=25",
    "reward.groups=" + "|".join(GROUPS),
    "questions.held-out-fraction=0.3",
    "policy.layers=1",
    "policy.width=16",
    "policy.heads=2",
    "policy.vocabulary=400",
    "policy.warm-up-steps=60",
    "policy.warm-up-batch=8",
    "policy.warm-up-learning-rate=0.01",
    "train.steps=2",
    "train.prompts=4",
    "train.generations=2",
)


@pytest.fixture(scope="module")
def reward_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reward")
    encoder = EncoderConfig(dimension=16)
    make_predictor(16, encoder=saved_settings(encoder)).save_pretrained(folder)
    return folder


@pytest.fixture
def align(monkeypatch, capsys, reward_folder, tmp_path):
    command = make_command(monkeypatch, capsys)

    def run(*changes):
        return command(
            "align",
            *SETTINGS,
            f"reward.path={reward_folder}",
            f"align.directory={tmp_path / 'out'}",
            *changes,
        )

    return run


def read(tmp_path):
    return json.loads((tmp_path / "out" / "metrics.json").read_text())


def test_a_policy_is_aligned_to_each_target(align, tmp_path):
    outcome = align("align.targets=group:Northern students | adaptive-alpha")
    assert outcome.status == 0, outcome.err
    metrics = read(tmp_path)
    assert list(metrics["targets"]) == ["group:Northern students", "adaptive-alpha"]
    assert metrics["questions"] == {"train": 20, "held_out": 9, "skipped": 0}
    for scores in (metrics["uniform"], metrics["base"], metrics["predicted"]):
        assert set(scores["groups"]) == set(GROUPS)
    # The warm-up has made a model that knows nobody.
    assert metrics["base"]["outside"] < 0.25
    for group in GROUPS:
        assert metrics["base"]["groups"][group] == pytest.approx(
            metrics["uniform"]["groups"][group], abs=0.1
        )
    for entry in metrics["targets"].values():
        assert entry["training"]["completions"] == 2 * 4 * 2
        assert 0 < entry["training"]["reward_share_of_step"] < 1
        assert entry["kl_tokens"] > 0 and entry["kl_answers"] > 0
        assert 0 < entry["win_rate"] < 1
        scores = list(entry["alignment"]["groups"].values())
        assert entry["alignment"]["mean"] == pytest.approx(np.mean(scores))
        assert entry["alignment"]["worst"] == min(scores)
        base = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "base")
        PeftModel.from_pretrained(base, tmp_path / "out" / entry["folder"])
    assert set(metrics["targets"]["adaptive-alpha"]["weights"]) == set(GROUPS)
    assert "group:Northern students" in outcome.out and "predicted for each group" in outcome.out
    saved = AlignConfig.parse([str(tmp_path / "out" / "config.toml")])
    assert saved.to_flat() == metrics["settings"]


def test_best_of_n_needs_no_training(align, tmp_path):
    outcome = align("align.method=best-of-n", "align.targets=mean | adaptive-alpha")
    assert outcome.status == 0, outcome.err
    metrics = read(tmp_path)
    for entry in metrics["targets"].values():
        assert "training" not in entry
        assert entry["kl_answers"] > 0
    assert not (tmp_path / "out" / "mean").exists()


def test_all_parameters_of_a_given_policy_can_be_trained(align, tmp_path, reward_folder):
    assert align("align.method=best-of-n").status == 0
    (tmp_path / "out").rename(tmp_path / "first")
    outcome = align(
        f"policy.path={tmp_path / 'first' / 'base'}",
        "train.lora-rank=0",
        "train.sequences-per-pass=4",
        f"reward.held-out-path={reward_folder}",
    )
    assert outcome.status == 0, outcome.err
    metrics = read(tmp_path)
    assert metrics["judged_by"] == str(reward_folder)
    assert metrics["base"] == json.loads((tmp_path / "first" / "metrics.json").read_text())["base"]
    AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "mean")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("align.targets=maen", "align.targets names 'maen'.* Did you mean 'mean'"),
        (
            "align.targets=group:Norse",
            "not among those that count: Northern farmers,",
        ),
        ("align.targets=mean|mean", "no target named twice"),
        ("reward.groups=Peru", "reward.groups: 'Peru' is not among the survey's groups"),
        ("reward.groups=", "does not say which groups there are"),
        ("reward.path=nowhere", "nowhere"),
        ("reward.paht=x", "Unknown setting 'reward.paht'. Did you mean 'reward.path'"),
        ("train.beta=0", "train.beta = 0.0: expected a number > 0"),
        ("train.generations=1", "train.generations = 1: expected an integer >= 2"),
        ("train.sequences-per-pass=3", r"a divisor of train.prompts x train.generations \(8\)"),
        ("policy.path=nowhere", "policy.path = 'nowhere': no causal language model"),
        ("data.source=nodes", "data.source = 'nodes'"),
    ],
)
def test_what_cannot_be_is_one_error(align, change, message, tmp_path):
    outcome = align(change)
    assert outcome.status == 2
    lines = outcome.err.strip().splitlines()
    assert len(lines) == 1
    assert re.search(message, lines[0]), lines[0]


def test_results_are_never_overwritten(align, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    outcome = align()
    assert outcome.status == 2 and "is not empty: choose another one" in outcome.err


def test_without_trl_the_extra_to_install_is_named(align, monkeypatch):
    monkeypatch.setitem(sys.modules, "trl", None)
    outcome = align()
    assert outcome.status == 2
    assert "needs trl" in outcome.err and "pip install 'pluralllm[align]'" in outcome.err
    assert align("align.method=best-of-n").status == 0


def test_the_settings_are_listed(monkeypatch, capsys):
    outcome = make_command(monkeypatch, capsys)("align", "--defaults")
    assert outcome.status == 0
    assert "train.beta" in outcome.out and "policy.warm-up-steps" in outcome.out
