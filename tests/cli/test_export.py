from pathlib import Path

import pytest
import torch

import report.exporting
from cli.export import export
from task.reward import RewardModel
from tests.cli.command import Command
from tests.server_app.in_process_grid import tiny_config
from tests.server_app.test_app import run_app

GROUP = "Northern students"
TEXTS = (["Something new?"], ["yes"])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a run."""
    monkeypatch.setenv("PLURALLLM_PROJECT", str(tmp_path))
    run_app(tiny_config(train__num_rounds=1), tmp_path / "run")
    return tmp_path


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_export_writes_a_folder_that_loads_and_scores(folder: Path, pluralllm: Command) -> None:
    outcome = pluralllm("export", "run", "--to", "deep/er/mine", "--context", GROUP)
    assert (outcome.status, outcome.err) == (0, "")
    assert outcome.out.strip().endswith("Reward model: deep/er/mine")
    assert names(folder / "deep" / "er") == {"mine"}
    assert names(folder / "deep" / "er" / "mine") == {
        *("model.safetensors", "config.json", "contexts.jsonl", "reward.json", "README.md")
    }
    assert "# mine\n" in (folder / "deep" / "er" / "mine" / "README.md").read_text()
    reward = RewardModel.load(folder / "deep" / "er" / "mine")
    assert reward.groups == (GROUP,)
    assert reward.score(*TEXTS, group=GROUP, against=["no"]).isfinite().all()


def test_a_context_file_and_an_empty_folder_will_do(folder: Path, pluralllm: Command) -> None:
    (folder / "me.csv").write_text("question,option,share\nTea?,yes,0.25\nTea?,no,0.75\n")
    (folder / "mine").mkdir()
    arguments = ("--context-file", "me.csv", "--which", "final")
    assert pluralllm("export", "run", "--to", "mine", *arguments).status == 0
    reward = RewardModel.load(folder / "mine")
    assert reward.groups == ("me",)
    assert torch.equal(
        reward.predictor.mean.weight, RewardModel.load("run", which="final").predictor.mean.weight
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--to", "full"], "--to full exists and is no empty folder: name a new one."),
        (["run", "--to", "file"], "--to file exists and is no empty folder"),
        (["run", "--to", "."], "--to . exists and is no empty folder"),
        (["run", "--to", "file/below"], "--to file/below cannot be written"),
        (["gone", "--to", "mine"], "gone holds no config.toml"),
        (["run", "--to", "mine", "--context", "Atlantis"], "'Atlantis' took no part in the run"),
        (["run", "--to", "mine", "--context-file", "gone.csv"], "gone.csv does not exist"),
        (["run", "--to", "mine", "--which", "latest"], "predictor-latest"),
        (["run", "--to", "mine", "--with-encoder"], "'hashing', which has no files"),
    ],
)
def test_wrong_input_is_one_line_and_leaves_everything_as_it_was(
    folder: Path, pluralllm: Command, arguments: list[str], message: str
) -> None:
    (folder / "full").mkdir()
    (folder / "full" / "mine.txt").write_text("mine")
    (folder / "file").write_text("mine too")
    before = names(folder)
    outcome = pluralllm("export", *arguments)
    assert outcome.status == 2
    assert message in outcome.err
    assert len(outcome.err.splitlines()) == 1
    assert names(folder) == before
    assert names(folder / "full") == {"mine.txt"}
    assert (folder / "full" / "mine.txt").read_text() == "mine"
    assert (folder / "file").read_text() == "mine too"


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit, OSError])
def test_an_interrupted_export_leaves_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, interruption: type[BaseException]
) -> None:
    written = []

    def interrupted(*_arguments: object, **_named: object) -> str:
        written.extend(names(folder / ".mine.partial"))
        raise interruption

    monkeypatch.setattr(report.exporting, "model_card", interrupted)  # the last file
    before = names(folder)
    with pytest.raises(interruption):
        export(folder / "run", folder / "mine", context=["all"])
    assert set(written) >= {"model.safetensors", "contexts.jsonl"}
    assert names(folder) == before


def test_what_a_killed_export_left_is_no_obstacle(folder: Path, pluralllm: Command) -> None:
    (folder / ".mine.partial").mkdir()
    (folder / ".mine.partial" / "contexts.jsonl").write_text("half a li")
    assert pluralllm("export", "run", "--to", "mine").status == 0
    assert ".mine.partial" not in names(folder)
    assert "contexts.jsonl" not in names(folder / "mine")
