from pathlib import Path

from tests.cli.command import Command


def write_survey(folder: Path, *groups: str, questions: int = 30) -> Path:
    rows = ["group,question,option,share"]
    rows += [
        f"{group},Question {number}?,{option},{share}"
        for group in groups
        for number in range(questions)
        for option, share in (("yes", 0.25), ("no", 0.75))
    ]
    (folder / "survey.csv").write_text("\n".join(rows) + "\n")
    return folder / "survey.csv"


def test_a_usable_file_and_what_leaves(pluralllm: Command, tmp_path: Path) -> None:
    write_survey(tmp_path, "Germany")
    outcome = pluralllm("check-data", "survey.csv", "encoder.dimension=16")
    assert outcome.status == 0, outcome.err
    assert f"{tmp_path / 'survey.csv'}: usable" in outcome.out
    assert "Germany: 30 questions, 27 train, 3 held back for its own score" in outcome.out
    sent, stays = outcome.out.split("What would not:")
    assert "(1 + 2 x 16 numbers)" in sent
    assert "answers: single ones" in stays
    assert "Flower runs the app that the SuperLink sends" in stays


def test_an_unusable_file_is_one_line_and_status_2(pluralllm: Command, tmp_path: Path) -> None:
    write_survey(tmp_path, "Germany", "Japan")
    for arguments, message in (
        (["gone.csv"], "gone.csv does not exist"),
        (["survey.csv"], "holds 2 groups, expected one"),
        (["survey.csv", "--group", "Japn"], "Did you mean 'Japan'?"),
        (["survey.csv", "--group", "Japan", "evaluation.num-context=29"], "expected at least"),
        (["survey.csv", "--group", "Japan", "--encoder", "./gone"], "./gone"),
    ):
        outcome = pluralllm("check-data", *arguments)
        assert outcome.status == 2
        assert message in outcome.err
        assert len(outcome.err.splitlines()) == 1


def test_a_held_out_group_is_not_trained_on(pluralllm: Command, tmp_path: Path) -> None:
    write_survey(tmp_path, "Germany", "Japan")
    outcome = pluralllm("check-data", "survey.csv", "--group", "Germany", "--held-out")
    assert "Germany: 30 questions, evaluated, never trained on" in outcome.out
    assert "Japan: 30 questions, not served" in outcome.out
    assert "training round" not in outcome.out


def test_comparisons_and_ratings_are_told_by_their_columns(
    pluralllm: Command, tmp_path: Path
) -> None:
    pairs, ratings = ["group,prompt,chosen,rejected"], ["group,prompt,response,score"]
    for number in range(30):
        pairs.append(f"Germany,Question {number}?,yes,no")
        ratings += [
            f"Germany,Question {number}?,{answer},{len(answer)}" for answer in ("yes", "no")
        ]
    pairs.append("Germany,Question 0?,yes,yes")
    for name, rows in (("pairs.csv", pairs), ("ratings.csv", ratings)):
        (tmp_path / name).write_text("\n".join(rows) + "\n")
        outcome = pluralllm("check-data", name)
        assert outcome.status == 0, outcome.err
        assert "Germany: 30 questions, 27 train, 3 held back" in outcome.out
        dropped = "left out: 1 comparisons of a response with itself" in outcome.out
        assert dropped == (rows is pairs)
