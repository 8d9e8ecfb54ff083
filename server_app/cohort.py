"""The cohort engine: a Grid that computes all clients itself, many at a time.

Below the population grid it stands where Flower's simulation or a SuperLink would: the same
strategies, messages and results, but no client is serialised, and where the ClientApp does no more
than `task` does, clients are computed as stacks (`task.cohort`) without calling it.
"""

import time
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import closing
from dataclasses import replace
from datetime import datetime
from importlib import import_module
from pathlib import Path
from typing import Any
from uuid import uuid4

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.app.message import make_message
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from server_app.announcing import announce, announce_as
from server_app.cohort_check import require_same_as_client_app
from server_app.cohort_jobs import Job, Outcome, call_job, error_reply, score_jobs, train_jobs
from server_app.cohort_workers import CLIENT_APP, NODE_ID, start_workers
from server_app.federation import run_federation
from server_app.metadata import changed, is_train
from server_app.run_directory import RunDirectory
from server_app.scoring_run import run_scoring
from task import records
from task.aggregation import Reduction, WeightedSum
from task.config import RunConfig
from task.errors import ConfigError
from task.paths import default_run_directory

WAIT_SECONDS = 1.0


class CohortGrid(Grid):
    """One node that holds all groups and computes their messages with this machine.

    Args:
        config: the run's settings, with absolute paths.
    """

    def __init__(self, config: RunConfig) -> None:
        self._config = config
        self._why_called = why_called(config)
        if self._why_called and config.engine.precision != "float32":
            raise ConfigError(
                f"engine.precision = {config.engine.precision!r}: expected 'float32' where every "
                f"client is a call of the ClientApp ({self._why_called})."
            )
        self._workers = start_workers(config)
        self._run = Run.create_empty(0)
        self._jobs: deque[Job] = deque()
        self._running: dict[Future[Any], Job] = {}
        self._awaited: set[str] = set()  # ids of messages that are not answered yet
        self._answers: dict[str, Message] = {}
        self._sum: WeightedSum | None = None
        self._checked: set[str] = set()  # what is known to be what the ClientApp would compute
        announce_as(config.log)
        description = self._description()
        announce("engine", f"Engine: {description}", {"description": description})

    # -- Grid ---------------------------------------------------------------------------------

    @property
    def run(self) -> Run:
        """Run information."""
        return self._run

    def set_run(self, run: Run) -> None:
        """Set the run."""
        self._run = run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Create a message to the node."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Return the one node."""
        return [NODE_ID]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Start computing messages; their replies are for `pull_messages`."""
        return self._push(list(messages), None)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies that are there, waiting for a moment when none is."""
        wanted = list(message_ids)
        if not any(message_id in self._answers for message_id in wanted):
            self._collect()
        return [self._answers.pop(i) for i in wanted if i in self._answers]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Compute messages and return all replies there are by the timeout."""
        started = time.monotonic()
        awaited = set(self.push_messages(messages))
        replies: list[Message] = []
        while awaited and (timeout is None or time.monotonic() - started <= timeout):
            pulled = list(self.pull_messages(awaited))
            awaited -= {reply.metadata.reply_to_message_id for reply in pulled}
            replies += pulled
        return replies

    # -- ReducingGrid -------------------------------------------------------------------------

    @property
    def reduces(self) -> bool:
        """Whether parameters can be added up by the workers: not if the ClientApp sends them."""
        return self._why_called is None

    def push_reduced(self, messages: Iterable[Message], reduction: Reduction) -> Iterable[str]:
        """As `push_messages`; the replies come without parameters, which are added up."""
        return self._push(list(messages), reduction)

    def take_sum(self) -> WeightedSum:
        """Return the sum over the replies since the last reduced push, and forget it."""
        total, self._sum = self._sum, None
        if total is None:
            raise ValueError("Nothing was added up: no reply was pulled since the last push.")
        return total

    def abandon(self, message_ids: Iterable[str]) -> None:
        """Compute these messages no further; what is under way is thrown away when it is done."""
        self._awaited -= set(message_ids)
        self._jobs = deque(job for job in self._jobs if self._is_awaited(job))

    # -- Beyond -------------------------------------------------------------------------------

    def close(self) -> None:
        """Stop the workers."""
        self._workers.close()

    def _push(self, batch: Sequence[Message], reduction: Reduction | None) -> list[str]:
        """Turn messages into jobs."""
        if reduction:
            self._sum = None
        messages = [_with_id(message) for message in batch]
        self._awaited.update(message.metadata.message_id for message in messages)
        stacked = [] if self._why_called else [m for m in messages if _is_computed(m)]
        trained = [m for m in stacked if is_train(m)]
        scored = [m for m in stacked if not is_train(m)]
        computed = {m.metadata.message_id for m in stacked}
        self._check(trained, scored)
        for jobs, refused in (
            train_jobs(self._workers, self._config, trained, reduction),
            score_jobs(self._workers, self._config, scored),
        ):
            self._jobs.extend(jobs)
            self._answer(refused)
        called = [m for m in messages if m.metadata.message_id not in computed]
        num_workers = self._workers.resources.num_workers
        self._jobs.extend(call_job(message, num_workers) for message in called)
        return [message.metadata.message_id for message in messages]

    def _collect(self) -> None:
        """Keep the workers busy; take in what they have finished, one job at least."""
        resources = self._workers.resources
        slots = 2 * resources.num_workers * resources.num_threads
        while self._jobs and len(self._running) < slots:
            job = self._jobs.popleft()
            future = self._workers.submit(job.method, *job.arguments, worker=job.worker)
            self._running[future] = job
        if not self._running:
            return
        done, _ = wait(self._running, timeout=WAIT_SECONDS, return_when=FIRST_COMPLETED)
        for future in done:
            job = self._running.pop(future)
            try:
                outcome = job.read(future.result())
            except Exception as error:  # it must reach the population grid as its clients' failure
                reason = f"{type(error).__name__}: {error}"
                outcome = Outcome([error_reply(message, reason) for message in job.messages])
            wanted = self._is_awaited(job)
            self._answer(outcome.replies)
            if outcome.total is not None and wanted:
                if self._sum is None:
                    self._sum = outcome.total
                else:
                    self._sum.merge(outcome.total)

    def _answer(self, replies: Iterable[Message]) -> None:
        """Keep replies; a message is answered once, though each of its jobs may fail."""
        for reply in replies:
            message_id = reply.metadata.reply_to_message_id
            if message_id in self._awaited:
                self._awaited.remove(message_id)
                self._answers[message_id] = reply

    def _is_awaited(self, job: Job) -> bool:
        return any(message.metadata.message_id in self._awaited for message in job.messages)

    def _check(self, trained: Sequence[Message], scored: Sequence[Message]) -> None:
        """Once a run, for training and for scoring: compare with the ClientApp."""
        for kind, messages in (("train", trained), ("score", scored)):
            if messages and kind not in self._checked:
                require_same_as_client_app(self._workers, self._config, messages)
                self._checked.add(kind)

    def _description(self) -> str:
        resources = self._workers.resources
        where = f"{resources.num_workers} worker(s) on {resources.device}"
        if resources.device == "cpu":
            where += f", {resources.num_threads} thread(s) each"
        if self._why_called:
            return (
                f"cohort, {resources.num_workers} worker(s); each calls the ClientApp for one "
                f"client after another: {self._why_called}"
            )
        return f"cohort, {where}; computes clients in stacks"


def simulate(config: RunConfig | None = None, strategy: Strategy | None = None) -> RunDirectory:
    """Run federated training (or scoring) in this process, without any process of Flower's.

    Args:
        config: the run's settings (None: the defaults); relative paths start from the current
            folder, and `engine.name` is taken to be `cohort`.
        strategy: the aggregation rule; None: the one that the config names.

    Returns:
        The run directory.

    Raises:
        UserError: see `run_federation`.
        RoundError: too few clients sent a valid reply.
    """
    chosen = (config or RunConfig()).with_absolute_paths(Path.cwd())
    if not chosen.run.directory and not chosen.run.resume:
        directory = Path.cwd() / default_run_directory(chosen, datetime.now())
        chosen = replace(chosen, run=replace(chosen.run, directory=str(directory)))
    chosen = replace(chosen, engine=replace(chosen.engine, name="cohort"))
    # Flower's processes set these; without them no message can be made.
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 0, 0, 1
    with closing(CohortGrid(chosen)) as grid:
        if chosen.score.rollouts:
            return run_scoring(grid, chosen)
        return run_federation(grid, chosen, strategy)


def why_called(config: RunConfig) -> str | None:
    """Return why every client needs a call of the ClientApp; None: it does not."""
    if not getattr(import_module(CLIENT_APP), "STACKABLE", False):
        return f"{CLIENT_APP} does not say that it is STACKABLE"
    if config.compression.name != "none":
        return f"compression.name = {config.compression.name!r} is applied by a mod of it"
    if config.privacy.secure_aggregation:
        return "privacy.secure-aggregation goes through mods of it"
    if config.privacy.unit == "question":
        return "privacy.unit = 'question' is trained by Opacus in it"
    return None


def _with_id(message: Message) -> Message:
    """Return the message as it arrives: with an id, to which its reply refers."""
    metadata = changed(message.metadata, message_id=uuid4().hex)
    return make_message(metadata, message.content)


def _is_computed(message: Message) -> bool:
    """Return whether a message asks for what `task` computes in stacks, from one group."""
    configs = message.content.config_records
    return (
        message.metadata.message_type in ("train", "evaluate")
        and records.BRIEFING in configs
        and records.PERSONAL not in configs.get(records.CONFIG, ConfigRecord())
    )
