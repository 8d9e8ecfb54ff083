"""`pluralllm score`: let the groups of a run score a file of responses, in a simulation."""

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from cli.run import start
from cli.settings import Settings, merge_settings
from server_app.open_run import resume_settings
from task.config import NODES, RunConfig
from task.errors import ConfigError
from task.saved_predictor import predictor_folder
from task.settings import Scalar


def score(
    run: Annotated[Path, typer.Argument(help="The run directory: its predictor, data and groups.")],
    rollouts: Annotated[
        Path,
        typer.Option(
            help="Responses to score (CSV, JSONL or Parquet): prompt, response, and maybe against, "
            "what each is compared with."
        ),
    ],
    to: Annotated[
        Path, typer.Option(help="JSONL file to write: prompt, response, score, every group's.")
    ],
    settings: Settings = None,
    aggregation: Annotated[
        str, typer.Option(help="mean, min, max, nash or adaptive-alpha.")
    ] = "mean",
    which: Annotated[str, typer.Option(help="Predictor of the run: best or final.")] = "best",
) -> None:
    """Let every group of a run score responses from its own answers, and aggregate the scores.

    On real nodes `pluralllm deploy run` does it, with the settings score.* (docs/deploy.md).
    """
    chosen: dict[str, Scalar] = {
        "score.rollouts": str(rollouts),
        "score.predictor": str(predictor_folder(run, which)),
        "score.aggregation": aggregation,
        "score.output": str(to),
    }
    begun = {key: value for key, value in resume_settings(run).items() if key != "run.resume"}
    with tempfile.TemporaryDirectory() as folder:
        # What a run leaves is not wanted here: the scores are in a file of their own.
        directory = Path(folder) / "run"
        given = {**begun, **chosen, "run.directory": str(directory), **merge_settings(settings)}
        config = RunConfig.from_flat(given).with_absolute_paths(Path.cwd())
        if config.data.source == NODES:
            raise ConfigError(
                f"{run} was trained on nodes (data.source = {NODES!r}), whose data are not here: "
                "score with `pluralllm deploy run FOLDER RUN/config.toml score.rollouts=FILE ...`."
            )
        start(config)
