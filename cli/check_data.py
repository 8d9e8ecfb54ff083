"""`pluralllm check-data`: is a survey usable, and what of it would leave the machine?"""

from pathlib import Path
from typing import Annotated

import typer

from cli.settings import Settings, merge_settings
from task.config import NODES, RunConfig
from task.data_check import DataCheck, check_data, what_leaves, what_stays
from task.node_config import NodeConfig

CAVEATS = (
    "Updates, losses and scores are computed from answers, and exact ones can betray some of them: "
    "privacy.unit protects against that (docs/privacy.md).",
    "All this is what this version does. Flower runs the app that the SuperLink sends, so whoever "
    "runs the SuperLink is trusted to send this one.",
)


def check_data_command(
    file: Annotated[Path, typer.Argument(help="The survey: CSV, JSON Lines or Parquet.")],
    settings: Settings = None,
    group: Annotated[
        str, typer.Option(help="Group to serve, several with `|`. Empty: the file's only one.")
    ] = "",
    held_out: Annotated[bool, typer.Option(help="The groups would never train.")] = False,
    encoder: Annotated[
        str, typer.Option(help="The encoder's folder or hub id on this machine.")
    ] = "",
    disclose_answers: Annotated[
        bool, typer.Option(help="Allow predictor.population-weight, which sends answers.")
    ] = False,
    allow_scoring: Annotated[
        bool, typer.Option(help="Allow the server to let this node score responses.")
    ] = False,
) -> None:
    """For a data owner, before anything connects: is the file usable, and what would leave it?

    Settings are the run's, as the coordinator tells them; without them, the defaults count.
    """
    given = {**merge_settings(settings), "data.source": NODES}
    config = RunConfig.from_flat(given).with_absolute_paths(Path.cwd())
    node = NodeConfig(
        data_path=str(file.absolute()),
        group=group,
        role="held-out" if held_out else "train",
        encoder=str(Path(encoder).absolute()) if Path(encoder).is_dir() and encoder else encoder,
        disclose_answers=disclose_answers,
        allow_scoring=allow_scoring,
    )
    check = check_data(node, config)
    for line in report(check, node, config):
        print(line)


def report(check: DataCheck, node: NodeConfig, config: RunConfig) -> list[str]:
    """Return what was found, line by line."""
    lines = [f"{check.path}: usable"]
    for name, number in check.in_file.items():
        served = next((group for group in check.groups if group.name == name), None)
        line = f"  {name}: {number} questions"
        if served is None:
            line += ", not served"
        elif served.role == "train":
            trained = served.num_questions - served.num_held_back
            line += f", {trained} train, {served.num_held_back} held back for its own score"
        else:
            line += ", evaluated, never trained on"
        lines.append(line)
    lines += [f"  left out: {number} {why}" for why, number in sorted(check.dropped.items())]
    lines.append("What would leave this machine with these settings (the server may send others):")
    lines += [f"  - {item}" for item in what_leaves(check, node, config)]
    lines.append("What would not:")
    lines += [f"  - {item}" for item in what_stays(check, node, config)]
    return [*lines, *CAVEATS]
