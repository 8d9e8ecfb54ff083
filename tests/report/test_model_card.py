import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from report.files import RunFiles, read_run
from report.model_card import FAIRNESS, model_card
from report.privacy import NO_PRIVACY
from server_app.cohort import simulate
from task.population import PopulationAnswers, PopulationPrior
from tests.report.conftest import HOSTILE
from tests.server_app.in_process_grid import tiny_config
from tests.task.reward_examples import MILK, TEA, population_of

ENCODER = {"name": "hashing", "fingerprint": "hashing-16"}
CLIENT = {
    "privacy__unit": "client",
    "privacy__noise_multiplier": 2.0,
    "strategy__clipping_norm": 0.5,
    "data__num_held_out_groups": 2,
}


def card_of(
    run: RunFiles,
    contexts: tuple[str, ...] = (),
    which: str = "best",
    prior: PopulationPrior | None = None,
) -> str:
    return model_card(run, "mine", contexts, which=which, encoder=ENCODER, prior=prior)


def rows_of(card: str, heading: str) -> dict[str, list[str]]:
    """First cell to the other cells of the table under a heading."""
    section = card.split(f"## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    return {row[0]: row[1:] for row in cells}


@pytest.fixture(scope="module")
def run(finished_run: Path) -> RunFiles:
    return read_run(finished_run)


def private_run(folder: Path, **changes: Any) -> RunFiles:
    simulate(tiny_config(run__directory=str(folder), **CLIENT | changes))
    return read_run(folder)


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory, session_cache: None) -> RunFiles:
    return private_run(tmp_path_factory.mktemp("runs") / "noisy", privacy__metrics="noisy")


@pytest.fixture(scope="module")
def off(tmp_path_factory: pytest.TempPathFactory, session_cache: None) -> RunFiles:
    return private_run(tmp_path_factory.mktemp("runs") / "off", privacy__metrics="off")


def test_the_front_matter_is_what_the_hub_reads(run: RunFiles) -> None:
    _, front, text = card_of(run).split("---\n", 2)
    told = yaml.safe_load(front)
    assert told["library_name"] == "pluralllm"
    assert "reward-model" in told["tags"]
    assert text.lstrip().startswith("# mine\n")


def test_training_data_and_encoder_are_told(run: RunFiles) -> None:
    card = card_of(run)
    assert "Data: the synthetic survey." in card
    for line in ("data.source: synthetic", "train.num-rounds: 2", "encoder: hashing (hashing-16)"):
        assert f"- {line}\n" in card
    assert f"torch {run.environment['packages']['torch']}" in card


def test_the_final_predictors_numbers_are_those_of_the_summary(run: RunFiles) -> None:
    card, summary = card_of(run, which="final"), run.summary
    table = rows_of(card, "Fairness and metrics")
    for role, label in (("held_out", "held-out groups"), ("train", "training groups")):
        for method, entry in summary[role].items():
            cells = table[f"{label}, {method.replace('_', ' ')}"]
            expected = [entry[key] for key, _ in FAIRNESS]
            assert cells == ["-" if each is None else f"{each:.4f}" for each in expected]
    assert len(table) == sum(len(summary[role]) for role in ("held_out", "train"))
    groups = rows_of(card, "Groups")
    assert groups == {
        name: [entry["role"], f"{entry['alignment_score']:.4f}"]
        for name, entry in summary["groups"].items()
    }
    assert f"- predictor: final, round {summary['round']}\n" in card


def test_the_best_predictors_numbers_are_those_of_its_own_round(run: RunFiles) -> None:
    """Had round 1 been the best: its scores, not those of the last evaluation."""
    assert card_of(run).replace("best, round", "final, round") == card_of(run, which="final")
    earlier = replace(run, summary={**run.summary, "best_round": 1})
    card, line = card_of(earlier), run.rounds[1]
    assert "- predictor: best, round 1\n" in card
    model = rows_of(card, "Fairness and metrics")["held-out groups, model"]
    assert model[0] == f"{line['held_out']['alignment_score']:.4f}"
    assert model[0] != f"{run.summary['held_out']['model']['alignment_score']:.4f}"
    assert {name: cells[1] for name, cells in rows_of(card, "Groups").items()} == {
        name: f"{score:.4f}" for name, score in line["groups"].items()
    }


def test_privacy_is_said_where_there_was_none(run: RunFiles) -> None:
    card = card_of(run)
    assert NO_PRIVACY in card
    assert "Answers never left a client." in card
    assert "epsilon =" not in card
    assert "This folder holds no group's answers: " in card
    assert 'RewardModel.load("mine")' in card
    assert "context=answered_questions" in card


def test_answers_in_the_folder_are_said_to_be_there(run: RunFiles) -> None:
    card = card_of(run, ("A", "B"))
    assert "**This folder holds answers.** `contexts.jsonl` has the answered questions of 2" in card
    assert "(A, B)" in card
    assert "holds no group's" not in card
    assert 'group="A"' in card
    assert "no epsilon covers them" not in card


def test_sums_of_answers_in_the_predictor_are_said_to_be_there(run: RunFiles) -> None:
    prior = PopulationPrior(population_of({TEA: [[0.1, 0.9]], MILK: [[0.2, 0.3, 0.5]]}), 0.5)
    assert isinstance(prior.answers, PopulationAnswers)
    card = card_of(run, prior=prior)
    assert "the sums of the training groups' answers to 2 questions" in card
    assert "no group's answers" not in card
    assert "sums of answers" not in card_of(run)


def test_the_epsilon_comes_with_what_it_means(noisy: RunFiles) -> None:
    guarantee = noisy.summary["privacy"]
    card = card_of(noisy, ("A",))
    assert f"epsilon = {guarantee['epsilon']:.4g} at delta = {guarantee['delta']:.3g}" in card
    assert "for one client" in card
    for said in (guarantee["relation"], guarantee["accountant"], *guarantee["excludes"]):
        assert said in card
    assert NO_PRIVACY not in card
    assert "and no epsilon covers them" in card
    by_member = replace(noisy, settings={**noisy.settings, "privacy.unit": "member"})
    assert "covers only those drawn from the run's own survey" in card_of(by_member, ("A",))


def test_a_noisy_run_discloses_its_noisy_means_and_no_group(noisy: RunFiles) -> None:
    card = card_of(noisy)
    assert "The run disclosed no scores of groups." in card
    (line,) = [e for e in noisy.rounds if e["round"] == noisy.summary["best_round"]]
    means = {"held-out groups": line["held_out"], "training groups": line["train"]}
    assert rows_of(card, "Fairness and metrics") == {
        f"{role}, model": [f"{entry['alignment_score']:.4f}", *["-"] * 6]
        for role, entry in means.items()
    }
    assert "with noise added to it" in card


def test_a_run_without_scores_discloses_none(off: RunFiles) -> None:
    card = card_of(off)
    assert "The run disclosed no scores of groups." in card
    assert "## Fairness" not in card
    assert f"epsilon = {off.summary['privacy']['epsilon']:.4g}" in card


def test_an_unfinished_run_has_a_card_without_scores(run: RunFiles) -> None:
    card = card_of(replace(run, summary={}, groups={}, status="running"))
    assert "The run has not finished." in card
    assert "- predictor: best, round unknown\n" in card
    assert "## Fairness" not in card


def test_hostile_names_break_out_of_nothing(hostile_run: Path) -> None:
    names = [f"{HOSTILE} {group}" for group in range(4)]
    name = 'a | b\n"c"'
    files = read_run(hostile_run)
    files = replace(files, groups={**files.groups, name: {"role": "train"}})
    card = card_of(files, (name,))
    assert f"group={json.dumps(name, ensure_ascii=False)}" in card
    assert '| a \\| b "c" | train | - |\n' in card
    assert set(names) <= set(rows_of(card, "Groups"))
    assert card.count("\n## ") == 6
