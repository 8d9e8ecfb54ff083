"""Held-out alignment score when some training clients are poisoned, by aggregation rule and attack.

A seeded draw of the training groups attacks in every round, the same groups under all rules and
attacks; held-out groups keep their true answers. The same command goes on where it was interrupted.

    python benchmarks/robustness.py conf/global-opinions.toml data.path=global_opinions.csv \
        encoder.name=path/to/all-MiniLM-L6-v2 --output benchmarks/results/robustness.json
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from measure import measure_missing
from torch import Tensor

from cli.settings import parse_settings
from server_app.arrays import layout_of, to_arrays, to_vector
from server_app.cohort import CohortGrid
from server_app.federation import run_federation
from server_app.replies import is_train
from task import records
from task.config import DataConfig, RunConfig, RunSettings
from task.errors import RoundError
from task.features import load_roles
from task.seeding import generator
from task.sources import load_survey

RULES: dict[str, tuple[str, str, float]] = {
    "fedavg": ("fedavg", "", 0),
    "fedavg, clipped": ("fedavg", "", 1),
    "fedmedian": ("fedmedian", "", 0),
    "fedtrimmedavg": ("fedtrimmedavg", "beta=0.25", 0),
    "krum": ("krum", "num-malicious-nodes={k}", 0),
    "multikrum": ("multikrum", "num-malicious-nodes={k} num-nodes-to-select={m}", 0),
}
"""Row of the table to strategy, its options, and clipping norm in units of `--clipping-norm`."""
Strength = Mapping[str, float]
STRENGTH = {
    "poisoned": (0.25, "share of the training groups that attack"),
    "scale": (4.0, "sign-flip: times the update's length"),
    "noise": (10.0, "noise: times the update's length"),
    "clipping-norm": (1.0, "of `fedavg, clipped`"),
}

MODEL_ATTACKS: dict[str, Callable[[Tensor, Tensor, Strength, np.random.Generator], Tensor]] = {
    "sign-flip": lambda w, w_k, strength, draw: w - strength["scale"] * (w_k - w),
    "noise": lambda w, w_k, strength, draw: w_k.add(
        torch.from_numpy(draw.normal(0, len(w) ** -0.5, len(w))).float(),
        alpha=strength["noise"] * float((w_k - w).norm()),
    ),
    "nan": lambda w, w_k, strength, draw: torch.cat([torch.full((1,), torch.nan), w_k[1:]]),
    "huge-norm": lambda w, w_k, strength, draw: w + 1000 * (w_k - w),
}
"""From (parameters sent to the client, those it trained) to those it sends back."""
ATTACKS = ("none", "label-flip", *MODEL_ATTACKS)
PATHS = ("data.path", "encoder.name", "encoder.cache-directory", "run.directory")
KEY = ("rule", "attack", "seed")  # what tells runs apart


class Planned(NamedTuple):
    """A run: a cell of the table with one seed."""

    rule: str
    attack: str
    seed: int
    config: RunConfig
    poisoned: tuple[str, ...]
    strength: Strength


class PoisoningGrid(Grid):
    """Changes what poisoned clients send; no `ReducingGrid`, as that would add them up unseen."""

    create_message = CohortGrid.create_message
    send_and_receive = CohortGrid.send_and_receive  # through the methods below

    def __init__(self, grid: Grid, planned: Planned) -> None:
        self._grid, self._planned = grid, planned
        self._asked: dict[str, Message] = {}  # messages to train, by id

    @property
    def run(self) -> Run:
        """See `Grid`."""
        return self._grid.run

    def set_run(self, run: Run) -> None:
        """See `Grid`."""
        self._grid.set_run(run)

    def get_node_ids(self) -> Iterable[int]:
        """See `Grid`."""
        return self._grid.get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """See `Grid`."""
        ids = list(self._grid.push_messages(batch := list(messages)))
        self._asked |= {i: m for i, m in zip(ids, batch, strict=True) if is_train(m)}
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """See `Grid`."""
        replies = list(self._grid.pull_messages(message_ids))
        for reply in replies:
            asked = self._asked.pop(reply.metadata.reply_to_message_id, None)
            if asked and not reply.has_error():
                self._poison(asked.content, reply.content)
        return replies

    def _poison(self, asked: RecordDict, reply: RecordDict) -> None:
        _, attack, seed, _, poisoned, strength = self._planned
        briefing: Mapping[str, Any] = asked.config_records[records.BRIEFING]
        if attack in MODEL_ATTACKS and (group := briefing[records.GROUP]) in poisoned:
            layout = layout_of(sent := asked.array_records[records.ARRAYS])
            w, w_k = to_vector(layout, sent), to_vector(layout, reply.array_records[records.ARRAYS])
            draw = generator(seed, "attack", briefing[records.ROUND], group)
            reply[records.ARRAYS] = to_arrays(layout, MODEL_ATTACKS[attack](w, w_k, strength, draw))


def flipped(data: DataConfig, seed: int, poisoned: Collection[str], file: Path) -> DataConfig:
    """Write the survey as a table in which some groups' answers are reversed."""
    survey = load_survey(RunConfig(run=RunSettings(seed=seed), data=data))
    rows: list[tuple[int, str, str, str, float]] = []
    for group, answers in survey.answers.items():
        for index, position in enumerate(answers.questions.tolist()):
            question, shares = survey.questions[position], answers.distribution(index).tolist()
            pairs = zip(question.options, shares[:: -1 if group in poisoned else 1], strict=True)
            rows += [(position, group, question.text, option, share) for option, share in pairs]
    rows.sort(key=lambda row: row[0])  # questions stay in the order that features are cached by
    columns = ["question_id", "group", "question", "option", "share"]
    pd.DataFrame(rows, columns=columns).to_parquet(file)
    return replace(data, source="table", path=str(file))


def plan(config: RunConfig, given: argparse.Namespace, strength: Strength) -> Iterator[Planned]:
    """Yield all runs, seed after seed."""
    for seed in range(config.run.seed, config.run.seed + given.seeds):
        roles = load_roles(config.data, config.evaluation, seed)
        train = [group for group, role in roles.items() if role == "train"]
        m = len(train) - (k := round(strength["poisoned"] * len(train)))
        poisoned = tuple(generator(seed, "poisoned").choice(train, k, replace=False).tolist())
        for rule in given.rules:
            name, options, clipping = RULES[rule]
            flat = config.to_flat() | {"run.seed": seed, "strategy.name": name}
            flat |= {"strategy.options": options.format(k=k, m=m)}
            flat |= {"strategy.clipping-norm": clipping * strength["clipping-norm"]}
            flat |= {"evaluation.every": config.train.num_rounds, "engine.name": "cohort"}
            flat |= {"engine.num-workers": 1, "engine.num-threads": 1}
            of_rule = RunConfig.from_flat(flat)
            yield from (Planned(rule, a, seed, of_rule, poisoned, strength) for a in given.attacks)


def train_poisoned(planned: Planned, folder: Path) -> dict[str, Any]:
    """Train as `simulate` does, but through the poisoning grid; return the held-out scores."""
    run, data = replace(planned.config.run, directory=str(folder / "run")), planned.config.data
    if planned.attack == "label-flip":
        data = flipped(data, run.seed, planned.poisoned, folder / "survey.parquet")
    config = replace(planned.config, run=run, data=data)
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 0, 0, 1
    with closing(CohortGrid(config)) as grid:
        run_federation(PoisoningGrid(grid, planned), config)
    summary = json.loads((folder / "run" / "summary.json").read_text())
    if missing := summary["missing_groups"]:
        raise RoundError(f"Not evaluated: {', '.join(missing)}")
    return {key: summary["held_out"]["model"][key] for key in ("alignment_score", "worst_group")}


def measure(planned: Planned) -> dict[str, Any]:
    """Train in a process of its own; a run that stops has the reason instead of scores."""
    row: dict[str, Any] = dict(zip(KEY, planned[:3], strict=True))
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as name, redirect_stdout(StringIO()):
        try:
            row |= train_poisoned(planned, Path(name))
        except (OSError, MemoryError):  # the machine's fault, not the attack's
            raise
        except Exception as error:
            row["stopped"] = f"{type(error).__name__}: {error}"
        metrics = Path(name) / "run" / "metrics.jsonl"
        lines = metrics.read_text().splitlines() if metrics.exists() else []
    row |= {"failures": sum(len(json.loads(line)["failures"]) for line in lines)}
    return row | {"poisoned": planned.poisoned, "seconds": time.perf_counter() - started}


def cell(rows: Sequence[dict[str, Any]], rule: str, attack: str) -> str:
    """Return the mean score and, paired by seed, its difference to FedAvg without attack."""
    scores = {tuple(row[key] for key in KEY): row.get("alignment_score") for row in rows}
    runs = {seed: score for (*of, seed), score in scores.items() if of == [rule, attack]}
    ended = {seed: score for seed, score in runs.items() if score is not None}
    text = f"{np.mean(list(ended.values())):.4f}" if ended else "-"
    gains = [own - s for seed, own in ended.items() if (s := scores.get(("fedavg", "none", seed)))]
    text += f" ({np.mean(gains):+.4f})" if gains else ""
    return text + (f", {len(runs) - len(ended)} stopped" if len(runs) > len(ended) else "")


def main() -> None:
    """Run what is not in the output file yet; print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("settings", nargs="*", help="conf/x.toml and key=value, as for a run")
    parser.add_argument("--rules", nargs="+", choices=RULES, default=list(RULES))
    parser.add_argument("--attacks", nargs="+", choices=ATTACKS, default=list(ATTACKS))
    parser.add_argument("--seeds", type=int, default=3, help="from run.seed upwards")
    parser.add_argument("--workers", type=int, default=1, help="runs at a time, a core each")
    parser.add_argument("--output", type=Path, help="write the figures to this JSON file")
    for name, (default, meaning) in STRENGTH.items():
        parser.add_argument(f"--{name}", type=float, default=default, help=meaning)
    given = parser.parse_args()
    config = parse_settings(given.settings)
    if config.compression.name != "none" or config.train.clients_per_round:
        parser.error("expected all clients in each round, and no compression")
    strength = {name: getattr(given, name.replace("-", "_")) for name in STRENGTH}
    known = {k: v for k, v in config.to_flat().items() if k not in PATHS}
    figures = {"settings": given.settings, "strength": strength, "config": known}
    rows = measure_missing(parser, given, figures, plan(config, given, strength), KEY, measure)
    print(f"| rule | {' | '.join(given.attacks)} |\n{'| --- ' * (1 + len(given.attacks))}|")
    for rule in given.rules:
        print("|", " | ".join([rule, *(cell(rows, rule, a) for a in given.attacks)]), "|")


if __name__ == "__main__":
    main()
