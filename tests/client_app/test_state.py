from pathlib import Path

import pytest
from flwr.app import Context, RecordDict

from client_app.state import state_folder
from task.errors import ConfigError
from tests.server_app.in_process_grid import tiny_config


def node_of(run_id: int = 7, **node_config: str) -> Context:
    return Context(
        run_id=run_id, node_id=1, node_config={**node_config}, state=RecordDict(), run_config={}
    )


def simulated(run_id: int = 7, **node_config: str) -> Context:
    context = node_of(run_id, **node_config)
    context.node_config |= {"partition-id": 0, "num-partitions": 2}
    return context


def test_a_simulations_clients_keep_their_state_in_the_runs_directory(tmp_path: Path) -> None:
    config = tiny_config(run__directory=str(tmp_path / "run"))
    assert state_folder(config, simulated()) == tmp_path / "run" / "clients"


def test_a_node_with_a_state_path_keeps_it_there_apart_for_each_run(tmp_path: Path) -> None:
    config = tiny_config(run__directory="/somewhere/on/the/server")
    for context_of in (node_of, simulated):
        folders = [
            state_folder(config, context_of(run_id, **{"state-path": str(tmp_path)}))
            for run_id in (7, 8)
        ]
        assert len(set(folders)) == 2
        assert {folder.parent for folder in folders} == {tmp_path}


@pytest.mark.parametrize("directory", ["", "/somewhere/the/server/chose"])
def test_a_node_without_a_state_path_is_refused_wherever_the_server_wants_it(
    directory: str,
) -> None:
    with pytest.raises(ConfigError, match=r"state-path=\"/abs/folder\"") as error:
        state_folder(tiny_config(run__directory=directory), node_of())
    assert len(str(error.value).splitlines()) == 1


def test_without_a_run_directory_the_state_is_in_the_cache_apart_for_each_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLURALLLM_CACHE", str(tmp_path / "cache"))
    folders = {state_folder(tiny_config(), simulated(run_id)) for run_id in (7, 8)}
    assert len(folders) == 2
    assert all(folder.is_relative_to(tmp_path / "cache") for folder in folders)
    named = tiny_config(encoder__cache_directory=str(tmp_path / "features"))
    assert state_folder(named, simulated()).is_relative_to(tmp_path / "features")
