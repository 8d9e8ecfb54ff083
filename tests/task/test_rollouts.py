"""Responses to score: reading, cutting into batches, and writing."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from task.errors import RewardError
from task.rollouts import Rollouts, read_rollouts, write_scored

ROWS = [
    {"prompt": "A tram?", "response": "Yes, soon.", "against": "No."},
    {"prompt": "NA", "response": "None", "against": "[sic] a bridge"},
]


def write(folder: Path, rows: list[dict[str, Any]], suffix: str = ".jsonl") -> str:
    file = folder / f"rollouts{suffix}"
    frame = pd.DataFrame(rows)
    if suffix == ".csv":
        frame.to_csv(file, index=False)
    elif suffix == ".parquet":
        frame.to_parquet(file)
    else:
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_every_format_gives_the_same_texts(tmp_path: Path, suffix: str) -> None:
    rollouts = read_rollouts(write(tmp_path, ROWS, suffix))
    assert rollouts.prompts == ("A tram?", "NA")  # texts, not a missing value
    assert rollouts.responses == ("Yes, soon.", "None")
    assert rollouts.against == (("No.",), ("[sic] a bridge",))


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_response_may_be_compared_with_several(tmp_path: Path, suffix: str) -> None:
    others = [["No.", "Later."], ["Some", "A few", "None"]]
    rows = [
        {**row, "against": json.dumps(texts) if suffix == ".csv" else texts}
        for row, texts in zip(ROWS, others, strict=True)
    ]
    assert read_rollouts(write(tmp_path, rows, suffix)).against == tuple(map(tuple, others))


def test_against_may_be_left_out(tmp_path: Path) -> None:
    rows = [{"prompt": row["prompt"], "response": row["response"]} for row in ROWS]
    assert read_rollouts(write(tmp_path, rows)).against is None


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"prompt": "A?"}], "has no column 'response'"),
        ([ROWS[0], {**ROWS[1], "response": "  "}], "row 2: response is '  ', expected a text"),
        ([ROWS[0], {**ROWS[1], "response": ""}], "row 2: response is empty"),
        ([ROWS[0], {**ROWS[1], "response": None}], "row 2: response is empty"),
        ([ROWS[0], {**ROWS[1], "prompt": None}], "row 2: prompt is empty"),
        ([{**ROWS[0], "response": 7}], "row 1: response is 7"),
        ([ROWS[0], {**ROWS[1], "against": 7}], "row 2: against is 7"),
        ([ROWS[0], {**ROWS[1], "against": [""]}], "row 2: against[0] = ['']"),
        ([ROWS[0], {**ROWS[1], "against": "None"}], "row 2: against[0] = ['None'] holds nothing"),
        ([], "has no row"),
    ],
)
def test_a_malformed_file_is_one_error_that_names_the_row(
    tmp_path: Path, rows: list[dict[str, Any]], message: str
) -> None:
    file = write(tmp_path, rows)
    if not rows:
        file = write(tmp_path, [{"prompt": "", "response": ""}], ".csv")
        Path(file).write_text("prompt,response\n")
    with pytest.raises(RewardError) as error:
        read_rollouts(file)
    assert message in str(error.value)
    assert str(error.value).startswith("score.rollouts = ")


def test_a_missing_file_and_another_kind_are_named(tmp_path: Path) -> None:
    with pytest.raises(RewardError, match="no such file"):
        read_rollouts(str(tmp_path / "gone.csv"))
    (tmp_path / "rollouts.txt").touch()
    with pytest.raises(RewardError, match="expected a file ending in"):
        read_rollouts(str(tmp_path / "rollouts.txt"))


def test_batches_are_bounded_in_number_and_bytes() -> None:
    responses = ["ab", "cd", "e" * 50, "fg", "hi", "é"]
    rollouts = Rollouts.of(["?"] * 6, responses, [["x"]] * 6)
    assert [b.responses for b in rollouts.batches(4, 10**6)] == [
        tuple(responses[:4]),
        tuple(responses[4:]),
    ]
    # 1 + 2 + 1 bytes each; the one of 52 comes alone; é has 2 bytes
    assert [b.responses for b in rollouts.batches(4, 8)] == [
        ("ab", "cd"),
        ("e" * 50,),
        ("fg", "hi"),
        ("é",),
    ]
    (whole,) = rollouts.batches(6, 10**6)
    assert whole == rollouts


def test_scores_are_written_line_by_line(tmp_path: Path) -> None:
    rollouts = Rollouts.of(["A tram?", "Ein Fluß?"], ["Yes.", "Ja."], ["No.", "Nein."])
    write_scored(
        tmp_path / "out.jsonl", rollouts, [0.5, -1.0], {"A": [1.0, -1.0], "B": [0.0, -1.0]}
    )
    lines = (tmp_path / "out.jsonl").read_text().splitlines()
    assert json.loads(lines[0]) == {
        "prompt": "A tram?",
        "response": "Yes.",
        "against": ["No."],
        "score": 0.5,
        "scores": {"A": 1.0, "B": 0.0},
    }
    assert json.loads(lines[1])["prompt"] == "Ein Fluß?"
    assert "Fluß" in lines[1]
