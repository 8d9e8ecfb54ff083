from pathlib import Path

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from client_app.state import state_folder
from task import records
from task.errors import ConfigError
from tests.server_app.in_process_grid import RUN_ID, tiny_config

KEYS = ("0123456789abcdef", "00000000000000ff")


def node_of(run_id: int = RUN_ID, **node_config: str) -> Context:
    return Context(
        run_id=run_id, node_id=1, node_config={**node_config}, state=RecordDict(), run_config={}
    )


def simulated(run_id: int = RUN_ID, **node_config: str) -> Context:
    context = node_of(run_id, **node_config)
    context.node_config |= {"partition-id": 0, "num-partitions": 2}
    return context


def message_of(key: str = KEYS[0]) -> Message:
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, RUN_ID, 1
    briefing = ConfigRecord({records.GROUP: "A", records.ROUND: 1, records.RUN_KEY: key})
    return Message(RecordDict({records.BRIEFING: briefing}), 1, "train")


def test_a_simulations_clients_keep_their_state_in_the_runs_directory(tmp_path: Path) -> None:
    config = tiny_config(run__directory=str(tmp_path / "run"))
    assert state_folder(config, simulated(), message_of()) == tmp_path / "run" / "clients"


def test_a_node_with_a_state_path_keeps_it_there_apart_for_each_run(tmp_path: Path) -> None:
    config = tiny_config(run__directory="/somewhere/on/the/server")
    for context_of in (node_of, simulated):
        context = context_of(**{"state-path": str(tmp_path)})
        folders = [state_folder(config, context, message_of(key)) for key in KEYS]
        assert len(set(folders)) == 2
        assert {folder.parent for folder in folders} == {tmp_path}


def test_a_resumed_run_is_the_same_one_to_a_node_though_it_is_another_to_flower(
    tmp_path: Path,
) -> None:
    contexts = [node_of(run_id, **{"state-path": str(tmp_path)}) for run_id in (7, 8)]
    folders = {state_folder(tiny_config(), context, message_of()) for context in contexts}
    assert len(folders) == 1


@pytest.mark.parametrize(
    "key", ["", "../../etc", "0123456789ABCDEF", "0123456789abcdef\n", "0" * 15]
)
def test_a_server_cannot_choose_a_nodes_folder(tmp_path: Path, key: str) -> None:
    context = node_of(**{"state-path": str(tmp_path)})
    with pytest.raises(ConfigError, match="expected 16 hex digits"):
        state_folder(tiny_config(), context, message_of(key))


@pytest.mark.parametrize("directory", ["", "/somewhere/the/server/chose"])
def test_a_node_without_a_state_path_is_refused_wherever_the_server_wants_it(
    directory: str,
) -> None:
    with pytest.raises(ConfigError, match=r"state-path=\"/abs/folder\"") as error:
        state_folder(tiny_config(run__directory=directory), node_of(), message_of())
    assert len(str(error.value).splitlines()) == 1


def test_without_a_run_directory_the_state_is_in_the_cache_apart_for_each_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLURALLLM_CACHE", str(tmp_path / "cache"))
    folders = {state_folder(tiny_config(), simulated(), message_of(key)) for key in KEYS}
    assert len(folders) == 2
    assert all(folder.is_relative_to(tmp_path / "cache") for folder in folders)
    named = tiny_config(encoder__cache_directory=str(tmp_path / "features"))
    folder = state_folder(named, simulated(), message_of())
    assert folder.is_relative_to(tmp_path / "features")


def test_a_resumed_simulation_finds_what_its_clients_kept_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLURALLLM_CACHE", str(tmp_path / "cache"))
    resumed = tiny_config(run__resume=str(tmp_path / "run"))
    in_cache = state_folder(tiny_config(), simulated(), message_of())
    assert state_folder(resumed, simulated(), message_of()) == in_cache  # of a run that named none
    before = state_folder(
        tiny_config(run__directory=str(tmp_path / "run")), simulated(), message_of()
    )
    before.mkdir(parents=True)
    assert state_folder(resumed, simulated(), message_of()) == before
