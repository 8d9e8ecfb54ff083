"""`pluralllm predict`: a saved predictor, a group's answered questions, new questions."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from task.errors import UserError
from task.predicting import predict_distributions, read_context, read_questions
from task.saved_predictor import load_predictor


def predict(
    run: Annotated[Path, typer.Argument(help="A run directory, or a saved predictor's folder.")],
    group_context: Annotated[
        Path,
        typer.Option(
            help="The group's answered questions: question, option, and share or count "
            "(CSV, JSONL or Parquet)."
        ),
    ],
    questions: Annotated[
        Path, typer.Option(help="New questions: one row per question and option.")
    ],
    encoder: Annotated[
        str,
        typer.Option(help="Hub id or folder of the predictor's encoder, if it has moved."),
    ] = "",
    which: Annotated[str, typer.Option(help="Predictor of the run: best or final.")] = "best",
    output: Annotated[
        Path | None, typer.Option(help="Also write the distributions to this JSON file.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Predict how a group's people distribute over the options of new questions."""
    if output is not None and not output.parent.is_dir():
        raise UserError(f"--output {output}: the folder {output.parent} does not exist.")
    context, asked = read_context(str(group_context)), read_questions(str(questions))
    predictor = load_predictor(run, which)
    distributions = predict_distributions(predictor, context, asked, encoder)
    entries = [
        {
            "question": question.text,
            "distribution": dict(zip(question.options, shares.tolist(), strict=True)),
        }
        for question, shares in zip(asked, distributions, strict=True)
    ]
    text = json.dumps(entries, indent=2, ensure_ascii=False)
    if output is not None:
        output.write_text(text + "\n")
    if as_json:
        print(text)
        return
    table = Table("question", "option", "share")
    for question, shares in zip(asked, distributions, strict=True):
        for index, (option, share) in enumerate(zip(question.options, shares, strict=True)):
            table.add_row("" if index else question.text, option, f"{share:.3f}")
        table.add_section()
    Console().print(table)
