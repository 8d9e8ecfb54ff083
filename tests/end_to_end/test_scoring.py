"""Groups score responses on Flower's own runtime, as a user asks them to."""

import json
from pathlib import Path

import pytest

from tests.end_to_end.test_runs import cohort_run, start

ROWS = [
    {"prompt": "How do we cross the river?", "response": "By a tram.", "against": "By boat."},
    {"prompt": "How do we cross the river?", "response": "By boat.", "against": "By a tram."},
    {"prompt": "Work less?", "response": "On Fridays.", "against": ["Never.", "Always."]},
]


def scored(folder: Path, engine: str) -> list[dict]:
    arguments = ["--rollouts", "rollouts.jsonl", "--to", f"{engine}.jsonl", "--aggregation", "min"]
    process = start(["pluralllm", "score", "mine", *arguments, f"engine.name={engine}"], folder)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert f"Scores: {folder / engine}.jsonl" in output
    return [json.loads(line) for line in (folder / f"{engine}.jsonl").read_text().splitlines()]


def test_both_engines_give_the_same_scores(tmp_path: Path) -> None:
    cohort_run(tmp_path / "mine")
    (tmp_path / "rollouts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    flower, cohort = scored(tmp_path, "flower"), scored(tmp_path, "cohort")
    assert len(flower) == len(cohort) == 3
    for entry, expected in zip(flower, cohort, strict=True):
        assert len(entry["scores"]) == 4
        assert entry["scores"] == pytest.approx(expected["scores"], abs=1e-5)
        assert entry["score"] == min(entry["scores"].values())
