from pathlib import Path
from typing import Any

import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from server_app import cohort
from server_app.cohort_jobs import JOBS_PER_THREAD, Job, call_job
from task import records
from tests.server_app.cohort_runs import cohort_config, cohort_grid, ragged_config, wire


def message_to(group: str) -> Message:
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
    content = RecordDict({records.BRIEFING: ConfigRecord({records.GROUP: group})})
    return Message(content, dst_node_id=2, message_type="train")


def test_a_groups_calls_go_to_one_worker_and_groups_to_all() -> None:
    groups = [f"group {number}" for number in range(40)]
    for num_workers in (1, 3):
        first = [call_job(message_to(group), num_workers).worker for group in groups]
        again = [call_job(message_to(group), num_workers).worker for group in groups]
        assert first == again
        assert set(first) == set(range(num_workers))


def test_a_call_has_containers_of_its_own() -> None:
    message = message_to("g")
    (sent,) = call_job(message, 1).arguments
    sent.content.config_records[records.BRIEFING][records.GROUP] = "other"
    sent.content["more"] = ConfigRecord()
    assert message.content.config_records[records.BRIEFING][records.GROUP] == "g"
    assert set(message.content) == {records.BRIEFING}


def jobs_of(monkeypatch: pytest.MonkeyPatch, config: Any, message_type: str) -> list[Job]:
    """What the engine cuts an exchange into."""
    made: list[Job] = []
    name = "train_jobs" if message_type == "train" else "score_jobs"
    original = getattr(cohort, name)

    def listening(*args: Any) -> Any:
        jobs, refused = original(*args)
        made.extend(jobs)
        return jobs, refused

    monkeypatch.setattr(cohort, name, listening)
    with cohort_grid(config) as grid:
        population, messages = wire(grid, config)
        exchange = population.exchange(messages(message_type))
    assert not exchange.failures
    return made


@pytest.mark.parametrize("message_type", ["train", "evaluate"])
@pytest.mark.parametrize(("num_threads", "stack_size"), [(1, 1), (1, 3), (2, 1)])
def test_work_is_cut_into_some_jobs_per_thread_which_hold_all_of_it_once(
    monkeypatch: pytest.MonkeyPatch, message_type: str, num_threads: int, stack_size: int
) -> None:
    config = cohort_config(
        data__synthetic_groups=25,
        engine__num_threads=num_threads,
        engine__stack_size=stack_size,
        evaluation__num_draws=2,
    )
    jobs = jobs_of(monkeypatch, config, message_type)
    stacks = [stack for job in jobs for stack in job.arguments[2]]
    items = [item if isinstance(item, str) else item[:2] for stack in stacks for item in stack]
    assert len(items) == len(set(items)) == (24 if message_type == "train" else 50)
    assert max(map(len, stacks)) == stack_size
    assert len(jobs) <= JOBS_PER_THREAD * num_threads
    assert len(jobs) > JOBS_PER_THREAD * num_threads / 2 or len(jobs) == len(stacks)


def test_large_clients_are_trained_first_and_beside_their_like(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = ragged_config(tmp_path, engine__stack_size=2, train__max_context=60)
    jobs = jobs_of(monkeypatch, config, "train")
    order = [group for job in jobs for stack in job.arguments[2] for group in stack]
    assert set(order[:2]) == {"g5", "g6"}  # by options, of which questions have 2 to 5
    assert order[-1] == "g0"


def test_a_groups_draws_may_be_scored_by_different_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    """That they add up to the ClientApp's scores is seen in `test_cohort`."""
    jobs = jobs_of(monkeypatch, cohort_config(evaluation__num_draws=3), "evaluate")
    of_group = {
        (group, index)
        for index, job in enumerate(jobs)
        for batch in job.arguments[2]
        for group, *_ in batch
    }
    assert len(of_group) == 4 * 3
