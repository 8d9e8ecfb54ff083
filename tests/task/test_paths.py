import json
from datetime import datetime
from pathlib import Path

import pytest

from task.config import RunConfig
from task.paths import default_run_directory, project_folder


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Makes the distribution look as if it were installed in this way (PEP 610)."""
    monkeypatch.delenv("PLURALLLM_PROJECT", raising=False)
    monkeypatch.setenv("HOME", "/home/somebody")

    def write(record):
        info = tmp_path / "site" / "pluralllm-0.1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: pluralllm\nVersion: 0.1.0\n")
        if record:
            (info / "direct_url.json").write_text(json.dumps(record))
        monkeypatch.syspath_prepend(tmp_path / "site")

    return write


@pytest.mark.parametrize("editable", [True, False])
def test_the_project_folder_is_the_one_that_was_installed(install, editable):
    install({"url": "file:///home/some%20body/pluralllm", "dir_info": {"editable": editable}})
    assert project_folder() == Path("/home/some body/pluralllm")


@pytest.mark.parametrize(
    "record",
    [
        None,
        {"url": "https://example.org/x.git", "vcs_info": {"vcs": "git", "commit_id": "0"}},
        {"url": "file:///tmp/dist/pluralllm-0.1.0-py3-none-any.whl", "archive_info": {}},
    ],
    ids=["registry", "git", "wheel"],
)
def test_an_installation_without_a_folder_falls_back_to_the_home_folder(install, record):
    install(record)
    assert project_folder() == Path("/home/somebody/pluralllm")


def test_the_environment_overrides_the_project_folder(install, monkeypatch, tmp_path):
    install({"url": "file:///somewhere", "dir_info": {}})
    monkeypatch.setenv("PLURALLLM_PROJECT", "~/mine")
    assert project_folder() == Path("/home/somebody/mine")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PLURALLLM_PROJECT", "mine")
    assert project_folder() == tmp_path / "mine"


def test_a_run_that_names_no_directory_is_named_after_time_source_and_seed():
    config = RunConfig.from_flat({"run.seed": 7})
    now = datetime(2025, 3, 9, 8, 5, 1)
    assert default_run_directory(config, now) == "runs/20250309-080501-synthetic-seed7"
