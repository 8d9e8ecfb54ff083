from pathlib import Path

import pytest

from server_app.nodes.registry import Registry
from task.errors import ConfigError

TEXT = """
[nodes.hospital]
node-id = "123"
groups = ["Patients", "Nurses"]

[nodes.paper]
node-id = "18446744073709551615"
groups = ["Readers"]
"""


def registry(tmp_path: Path, text: str = TEXT) -> Registry:
    file = tmp_path / "registry.toml"
    file.write_text(text)
    read = Registry.read(str(file))
    assert read is not None
    return read


def test_a_node_may_serve_its_groups_and_no_others(tmp_path: Path) -> None:
    known = registry(tmp_path)
    assert known.groups == {"Patients", "Nurses", "Readers"}
    assert known.objection(123, {"Patients": "train"}) == ""
    assert known.objection(123, {"Patients": "train", "Nurses": "held-out"}) == ""
    assert known.objection(2**64 - 1, {"Readers": "train"}) == ""
    assert known.objection(123, {"Nurses": "train", "Readers": "train"}) == (
        "it claims the group 'Readers', and may serve: Nurses, Patients"
    )
    assert known.objection(5, {"Readers": "train"}) == "it is not in nodes.registry"


def test_a_party_with_a_role_may_serve_its_groups_in_that_alone(tmp_path: Path) -> None:
    known = registry(tmp_path, TEXT + 'role = "held-out"')
    assert known.objection(2**64 - 1, {"Readers": "held-out"}) == ""
    assert known.objection(2**64 - 1, {"Readers": "train"}) == (
        "'Readers' has the role 'train', and may be: held-out"
    )
    assert known.objection(123, {"Nurses": "train"}) == ""  # its entry names none


def test_a_node_is_called_by_its_party(tmp_path: Path) -> None:
    assert registry(tmp_path).name(123) == "hospital (node 123)"
    assert registry(tmp_path).name(5) == "Node 5"


def test_no_file_no_registry() -> None:
    assert Registry.read("") is None


@pytest.mark.parametrize(
    "text",
    [
        "nodes = 3",
        "[nodes.a]\ngroups = ['x']",
        "[nodes.a]\nnode-id = 'b'\ngroups = ['x']",
        "[nodes.a]\nnode-id = '1'\ngroups = 'x'",
        "[nodes.a]\nnode-id = '1'\ngroups = ['x']\nrole = 'judge'",
        "[[[",
    ],
)
def test_a_malformed_file_is_named(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"registry\.toml' cannot be read .* Expected a table"):
        registry(tmp_path, text)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml': No such file"):
        Registry.read(str(tmp_path / "nowhere.toml"))
