"""Turn a survey into a file of pairwise comparisons, drawn from its answer distributions.

    python benchmarks/make_pairs.py pairs.parquet conf/global-opinions.toml \
        data.path=global_opinions.csv run.seed=0 --per-question 10 --users 20

How they are drawn: `task/sampled_pairs.py`. The file is read with `data.source=pairs`.
"""

from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from cli.settings import parse_settings
from task.errors import UserError
from task.sampled_pairs import SampledPair, sample_pairs
from task.sources import load_survey

WRITERS = (".csv", ".jsonl", ".parquet")


def main(
    output: Annotated[Path, typer.Argument(help="The file: .csv, .jsonl or .parquet.")],
    settings: Annotated[
        list[str] | None, typer.Argument(help="The survey's settings and run.seed.")
    ] = None,
    per_question: Annotated[
        int, typer.Option(help="Comparisons of each question of a group.", min=1)
    ] = 10,
    users: Annotated[
        int, typer.Option(help="Users of each group that the comparisons are dealt to.", min=1)
    ] = 1,
) -> None:
    """Write the comparisons of all groups of a survey."""
    config = parse_settings(settings)
    rows = list(sample_pairs(load_survey(config), per_question, users, config.run.seed))
    write_pairs(rows, output)
    comparisons = sum(row.weight for row in rows)
    print(f"{output}: {comparisons:,} comparisons in {len(rows):,} rows")


def write_pairs(rows: list[SampledPair], output: Path) -> None:
    """Write rows in the format that the file's name ends with.

    Raises:
        UserError: it ends otherwise, or its folder does not exist.
    """
    if output.suffix not in WRITERS or not output.parent.is_dir():
        raise UserError(
            f"{output}: expected a file ending in {', '.join(WRITERS)}, in a folder that exists."
        )
    frame = pd.DataFrame(rows, columns=list(SampledPair._fields))
    if output.suffix == ".csv":
        frame.to_csv(output, index=False)
    elif output.suffix == ".jsonl":
        frame.to_json(output, orient="records", lines=True, force_ascii=False)
    else:
        frame.to_parquet(output, index=False)


if __name__ == "__main__":
    typer.run(main)
