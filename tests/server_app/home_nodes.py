"""SuperNodes with files of their own, in this process."""

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
from flwr.proto.node_pb2 import NodeInfo

from task.config import RunConfig
from task.features import load_roles
from task.sources import load_survey
from tests.server_app.in_process_grid import Fault, InProcessGrid, tiny_config


def write_files(config: RunConfig, folder: Path) -> dict[str, Path]:
    """Write each group's answers of a simulation's survey into a file; return them by group."""
    survey = load_survey(config)
    files = {}
    for group in load_roles(config.data, config.evaluation, config.run.seed):
        answers = survey.answers[group]
        rows = [
            {
                "group": group,
                "question_id": position,
                "question": survey.questions[position].text,
                "option": option,
                "share": share,
            }
            for index, position in enumerate(answers.questions)
            for option, share in zip(
                survey.questions[position].options, answers.distribution(index), strict=True
            )
        ]
        files[group] = folder / f"{group}.parquet"
        pd.DataFrame(rows).to_parquet(files[group])
    return files


class HomeGrid(InProcessGrid):
    """One node for each group, with its file; nodes may be away, and come back.

    Args:
        simulated: a simulation's settings, whose groups and roles these are.
        folder: where the files are written.
        fault: see `InProcessGrid`.
        **settings: run config of the server, besides the source.
    """

    def __init__(
        self,
        simulated: RunConfig,
        folder: Path,
        *,
        fault: Fault | None = None,
        **settings: bool | int | float | str,
    ) -> None:
        files = write_files(simulated, folder)
        roles = load_roles(simulated.data, simulated.evaluation, simulated.run.seed)
        flat = {
            key.replace(".", "__").replace("-", "_"): value
            for key, value in simulated.to_flat().items()
            if not key.startswith(
                ("data.path", "data.source", "data.synthetic", "data.held-out", "data.train-")
            )
        }
        self.config = tiny_config(**flat | {"data__source": "nodes"} | settings)
        super().__init__(self.config, len(files), fault=fault)
        self.away: set[int] = set()
        self.activated: dict[int, datetime] = {}
        self.node_of = dict(zip(sorted(files), self.contexts, strict=True))
        for group, node_id in self.node_of.items():
            self.contexts[node_id].node_config = {
                "data-path": str(files[group]),
                "group": group,
                "role": str(roles[group]),
                "state-path": str(folder / "state" / group),
            }

    def get_node_ids(self) -> list[int]:
        return [node_id for node_id in super().get_node_ids() if node_id not in self.away]

    def get_nodes(self) -> Iterable[NodeInfo]:
        for node_id in self.get_node_ids():
            when = self.activated.get(node_id, datetime(2020, 1, 1, tzinfo=UTC))
            yield NodeInfo(node_id=node_id, last_activated_at=when.isoformat())

    def renew(self, group: str) -> int:
        """Let a group's node come back under another id, as without authentication."""
        old = self.node_of[group]
        new = old + 1
        self.contexts[new] = self.contexts.pop(old)
        self.node_of[group] = new
        return new
