from pathlib import Path

import pytest
from flwr.app import Context, RecordDict

from client_app.state import state_folder
from tests.server_app.in_process_grid import tiny_config


def context_of(run_id: int = 7, **node_config: str) -> Context:
    return Context(
        run_id=run_id, node_id=1, node_config=node_config, state=RecordDict(), run_config={}
    )


def test_a_simulations_clients_keep_their_state_in_the_runs_directory(tmp_path: Path) -> None:
    config = tiny_config(run__directory=str(tmp_path / "run"))
    assert state_folder(config, context_of()) == tmp_path / "run" / "clients"


def test_a_node_with_a_state_path_keeps_it_there_apart_for_each_run(tmp_path: Path) -> None:
    config = tiny_config(run__directory="/somewhere/on/the/server")
    folders = [
        state_folder(config, context_of(run_id, **{"state-path": str(tmp_path)}))
        for run_id in (7, 8)
    ]
    assert len(set(folders)) == 2
    assert {folder.parent for folder in folders} == {tmp_path}


def test_without_a_run_directory_the_state_is_in_the_cache_apart_for_each_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLURALLLM_CACHE", str(tmp_path / "cache"))
    folders = {state_folder(tiny_config(), context_of(run_id)) for run_id in (7, 8)}
    assert len(folders) == 2
    assert all(folder.is_relative_to(tmp_path / "cache") for folder in folders)
    named = tiny_config(encoder__cache_directory=str(tmp_path / "features"))
    assert state_folder(named, context_of()).is_relative_to(tmp_path / "features")
