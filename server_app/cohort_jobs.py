"""From messages to work for the cohort engine's workers, and from their results to replies."""

from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, field
from functools import reduce
from operator import add
from typing import Any, TypeVar, cast
from zlib import crc32

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.app.message import make_message
from flwr.common.constant import ErrorCode
from numpy.typing import NDArray

from server_app.arrays import decoded, layout_of, to_arrays
from server_app.cohort_workers import Workers
from server_app.metadata import reply_metadata
from task import records
from task.aggregation import Reduction, WeightedSum
from task.cohort import Start, TrainedShard, TrainTask
from task.config import RunConfig
from task.features import load_group
from task.metrics import GroupScores
from task.population import PopulationAnswers, PopulationPrior

T = TypeVar("T")

JOBS_PER_THREAD = 8
"""A round's work is cut into so many jobs for each thread, so that all end at about the same
time."""


@dataclass(frozen=True)
class Outcome:
    """What a finished job gives: replies, and the sum of the parameters they come without."""

    replies: list[Message]
    total: WeightedSum | None = None


@dataclass(frozen=True)
class Job:
    """One call of a worker.

    Attributes:
        method: of `CohortWorker`, and its `arguments`.
        messages: what the job answers, for the case that it fails.
        read: makes the outcome of the result.
        worker: which worker; None: any.
    """

    method: str
    arguments: tuple[Any, ...]
    messages: list[Message]
    read: Callable[[Any], Outcome]
    worker: int | None = None


def train_jobs(
    workers: Workers, config: RunConfig, messages: Sequence[Message], reduction: Reduction | None
) -> tuple[list[Job], list[Message]]:
    """Return the jobs that train a round's clients, and replies to those that cannot be trained."""
    jobs: list[Job] = []
    known, refused = _known(config, messages)
    for batch in _alike(known, records.ARRAYS, records.BRIEFING, records.CONFIG):
        content = batch[0].content
        briefing = content.config_records[records.BRIEFING]
        settings = content.config_records.get(records.CONFIG, ConfigRecord())
        task = TrainTask(
            learning_rates=tuple(cast(list[float], briefing[records.LEARNING_RATES])),
            server_round=cast(int, briefing[records.ROUND]),
            proximal_mu=float(cast(float, settings.get(records.PROXIMAL_MU, 0.0))),
            reports=tuple(cast(list[str], settings.get(records.REPORTS, []))),
            reduction=reduction,
        )
        start = workers.share(_start(content))
        arrays = content.array_records[records.ARRAYS]
        groups = [_group(message) for message in batch]
        stacks: list[list[int]] = workers.submit("stacks", groups, worker=0).result()
        for shard in _dealt(stacks, workers):
            members = [index for stack in shard for index in stack]
            jobs.append(
                Job(
                    "train",
                    (start, task, [[groups[index] for index in stack] for stack in shard]),
                    [batch[index] for index in members],
                    _TrainReader([batch[index] for index in members], arrays),
                )
            )
    return jobs, refused


def score_jobs(
    workers: Workers, config: RunConfig, messages: Sequence[Message]
) -> tuple[list[Job], list[Message]]:
    """Return the jobs that score groups, and replies to those that cannot be scored."""
    jobs: list[Job] = []
    known, refused = _known(config, messages)
    for batch in _alike(known, records.ARRAYS):
        start = workers.share(_start(batch[0].content, config.predictor.population_weight))
        groups = [_group(message) for message in batch]
        keys: dict[int, int] = {}  # records of seen questions by identity; there are few
        seen_keys: list[NDArray[np.int64]] = []
        seen: list[int] = []
        for message in batch:
            record = message.content.array_records[records.SEEN_QUESTIONS]
            if id(record) not in keys:
                keys[id(record)] = len(seen_keys)
                seen_keys.append(record[records.QUESTION_KEYS].numpy())
            seen.append(keys[id(record)])
        shared_keys = workers.share(seen_keys)
        batches = workers.submit("batches", groups, worker=0).result()
        scoring = _Scoring(batch, config.evaluation.num_draws)
        for shard in _dealt(batches, workers):
            pairs = [pair for part in shard for pair in part]
            named = [[(groups[index], draw, seen[index]) for index, draw in part] for part in shard]
            jobs.append(
                Job(
                    "score",
                    (start, shared_keys, named),
                    [batch[index] for index in sorted({index for index, _ in pairs})],
                    scoring.reader(pairs),
                )
            )
    return jobs, refused


def call_job(message: Message, num_workers: int) -> Job:
    """Return the job that lets the ClientApp answer a message.

    A group's messages all go to one worker, which keeps the node's state.
    """
    briefing = message.content.config_records.get(records.BRIEFING, ConfigRecord())
    worker = crc32(str(briefing.get(records.GROUP, "")).encode()) % num_workers
    # Its own containers: a mod may change what is in them, and clients share the records.
    content = RecordDict({name: record.copy() for name, record in message.content.items()})
    for name, arrays in message.content.array_records.items():
        content[name] = decoded(arrays)
    own = make_message(message.metadata, content)
    return Job("call", (own,), [message], lambda reply: Outcome([reply]), worker)


def error_reply(message: Message, reason: str) -> Message:
    """Return an error as the reply to a message."""
    error = Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason)
    return make_message(reply_metadata(message), error=error)


@dataclass(frozen=True)
class _TrainReader:
    """Turns a trained shard into replies."""

    messages: list[Message]
    arrays: ArrayRecord

    def __call__(self, shard: TrainedShard) -> Outcome:
        replies = []
        layout = layout_of(self.arrays) if shard.values_nP is not None else None
        for index, message in enumerate(self.messages):
            if index in shard.faults:
                replies.append(error_reply(message, shard.faults[index]))
                continue
            metrics = MetricRecord(
                {
                    records.NUM_EXAMPLES: shard.num_examples[index],
                    records.LOSS: shard.losses[index],
                    **{key: list(astuple(m)) for key, m in shard.reports[index].items()},
                }
            )
            if shard.within is not None:
                metrics[records.WITHIN_NORM] = float(shard.within[index])
            content = RecordDict({records.METRICS: metrics})
            if layout is not None and shard.values_nP is not None:
                content[records.ARRAYS] = to_arrays(layout, shard.values_nP[index])
            replies.append(make_message(reply_metadata(message), content))
        return Outcome(replies, shard.total)


@dataclass
class _Scoring:
    """Collects the context draws of each group, which come from different jobs."""

    messages: Sequence[Message]
    num_draws: int
    scores: dict[int, dict[int, GroupScores]] = field(default_factory=dict)

    def reader(self, pairs: Sequence[tuple[int, int]]) -> Callable[[list[GroupScores]], Outcome]:
        """Return what reads the result of a job that scores these (group, draw) pairs."""
        return lambda scores: self._read(pairs, scores)

    def _read(self, pairs: Sequence[tuple[int, int]], scores: list[GroupScores]) -> Outcome:
        replies = []
        for (index, draw), score in zip(pairs, scores, strict=True):
            draws = self.scores.setdefault(index, {})
            draws[draw] = score
            if len(draws) == self.num_draws:  # added up in the order of draws, whoever was first
                total = reduce(add, (draws[each] for each in sorted(draws)), GroupScores())
                replies.append(_scores_reply(self.messages[index], total))
        return Outcome(replies)


def _scores_reply(message: Message, scores: GroupScores) -> Message:
    metrics = MetricRecord(
        {
            records.NUM_EXAMPLES: int(scores.all.weight),
            **scores.to_metrics(),
        }
    )
    return make_message(reply_metadata(message), RecordDict({records.METRICS: metrics}))


def _start(content: RecordDict, population_weight: float = 0.0) -> Start:
    statistics = content.array_records[records.FEATURE_STATISTICS]
    mean, std = (statistics[key].numpy() for key in (records.FEATURE_MEAN, records.FEATURE_STD))
    parameters = content.array_records[records.ARRAYS].to_torch_state_dict()
    prior = None
    if population := content.array_records.get(records.POPULATION):
        arrays = {name: array.numpy() for name, array in population.items()}
        prior = PopulationPrior(PopulationAnswers.from_arrays(arrays), population_weight)
    return Start(dict(parameters), torch.from_numpy(mean), torch.from_numpy(std), prior)


def _group(message: Message) -> str:
    return str(message.content.config_records[records.BRIEFING][records.GROUP])


def _known(config: RunConfig, messages: Sequence[Message]) -> tuple[list[Message], list[Message]]:
    """Return the messages whose group exists, and error replies to the others."""
    known, refused = [], []
    for message in messages:
        try:
            load_group(config, _group(message))
            known.append(message)
        except KeyError as error:
            refused.append(error_reply(message, f"KeyError: {error}"))
    return known, refused


def _dealt(stacks: Sequence[list[T]], workers: Workers) -> list[list[list[T]]]:
    """Cut a list of stacks into jobs of about as many clients each."""
    resources = workers.resources
    number = resources.num_workers * resources.num_threads * JOBS_PER_THREAD
    enough = sum(map(len, stacks)) / number
    jobs: list[list[list[T]]] = []
    size = enough
    for stack in stacks:
        if size >= enough:
            jobs.append([])
            size = 0
        jobs[-1].append(stack)
        size += len(stack)
    return jobs


def _alike(messages: Sequence[Message], arrays: str, *configs: str) -> list[list[Message]]:
    """Divide messages by the parameters they carry and by their settings, group names apart."""
    alike: dict[tuple[Any, ...], list[Message]] = {}
    for message in messages:
        content = message.content
        settings = tuple(
            repr({k: v for k, v in content.config_records[name].items() if k != records.GROUP})
            for name in configs
            if name in content.config_records
        )
        key = (id(content.array_records[arrays]), *settings)
        alike.setdefault(key, []).append(message)
    return list(alike.values())
