"""`pluralllm export`: a run's predictor as a reward model that stands alone."""

import shutil
from pathlib import Path
from typing import Annotated

import typer

from task.errors import RewardError


def export(
    run: Annotated[Path, typer.Argument(help="The run directory.")],
    to: Annotated[Path, typer.Option(help="Folder to write; new, or empty.")],
    context: Annotated[
        list[str] | None,
        typer.Option(
            help="A group whose answered questions go into the folder, so that it can be scored "
            "for; repeatable; 'all': every group. Whoever gets the folder can read them."
        ),
    ] = None,
    context_file: Annotated[
        list[Path] | None,
        typer.Option(
            help="A file with groups' answered questions to put into the folder (group, question, "
            "option, and share or count), for groups whose data are not here; repeatable."
        ),
    ] = None,
    num_context: Annotated[
        int,
        typer.Option(
            help="Answered questions of each --context group: a seeded draw. 0: as many as the "
            "run's evaluation.num-context.",
            min=0,
        ),
    ] = 0,
    which: Annotated[str, typer.Option(help="Predictor of the run: best or final.")] = "best",
    calibrate: Annotated[
        bool,
        typer.Option(
            help="Fit a temperature to the training groups' held-back questions: how sure scores "
            "are, not what they prefer. Needs the run's survey here."
        ),
    ] = False,
    with_encoder: Annotated[
        bool, typer.Option(help="Also copy the encoder's own files into the folder.")
    ] = False,
) -> None:
    """Write a run's predictor as a reward model: weights, config, model card, chosen contexts."""
    from report.exporting import export_reward_model  # PyTorch and pandas are slow to import

    if not to.name or (to.exists() and (not to.is_dir() or any(to.iterdir()))):
        raise RewardError(f"--to {to} exists and is no empty folder: name a new one.")
    partial = to.with_name(f".{to.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
    except OSError as error:
        raise RewardError(f"--to {to} cannot be written: {error.strerror}.") from error
    try:
        export_reward_model(
            run,
            partial,
            name=to.name,
            which=which,
            groups=context or [],
            files=context_file or [],
            num_context=num_context,
            calibrate=calibrate,
            with_encoder=with_encoder,
        )
        if to.exists():
            to.rmdir()
        partial.rename(to)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    print(f"Reward model: {to}")
