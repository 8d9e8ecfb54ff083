import tomllib
from pathlib import Path

import pytest
from cryptography import x509

from deployment.certificates import read_certificate
from deployment.coordinator import Coordinator, parse_address
from deployment.files import write_file
from deployment.hand_over import hand_over, party_folder
from deployment.node_keys import make_node_key
from deployment.parties import Party, parse_party
from deployment.supernode_config import check_supernode, read_supernode_config
from task.errors import DeploymentError, SurveyError, UserError

HOSPITAL = Party("hospital", ("Germany",))
MINISTRY = Party("ministry", ("Japan", "Northern Ireland"), "held-out")
SURVEY = "group,question,option,count\nGermany,Tea?,yes,3\nGermany,Tea?,no,1\n"


def create(folder: Path, *parties: Party) -> Coordinator:
    return Coordinator.create(folder, parse_address("link.example.org:8000"), parties, days=10)


@pytest.fixture
def coordinator(tmp_path: Path) -> Coordinator:
    return create(tmp_path / "deployment", HOSPITAL, MINISTRY)


@pytest.fixture
def party(coordinator: Coordinator) -> Path:
    """A party's folder, with its key and its survey."""
    hand_over(coordinator, HOSPITAL)
    folder = party_folder(coordinator, "hospital")
    make_node_key(folder)
    (folder / "survey.csv").write_text(SURVEY)
    change(folder, 'data-path = ""', 'data-path = "survey.csv"')
    return folder


def change(folder: Path, old: str, new: str) -> None:
    text = (folder / "supernode.toml").read_text()
    assert old in text
    (folder / "supernode.toml").write_text(text.replace(old, new))


def test_secrets_are_for_their_owner_only(coordinator: Coordinator) -> None:
    hand_over(coordinator, HOSPITAL, make_key=True)
    files = [path for path in coordinator.folder.rglob("*") if path.is_file()]
    secret = {path.name for path in files if path.stat().st_mode & 0o077 == 0}
    assert secret == {"ca.key", "server.pem", "node.key"}
    for folder in (coordinator.folder, coordinator.own, party_folder(coordinator, "hospital")):
        assert folder.stat().st_mode & 0o777 == 0o700


def test_a_party_gets_nobody_elses_secret(coordinator: Coordinator) -> None:
    hand_over(coordinator, HOSPITAL)
    hand_over(coordinator, MINISTRY, make_key=True)
    files = {path.name for path in party_folder(coordinator, "hospital").iterdir()}
    assert files == {"ca.crt", "supernode.toml", "README.txt"}
    content = [path.read_bytes() for path in party_folder(coordinator, "ministry").iterdir()]
    secrets = [coordinator.authority_key.read_bytes(), coordinator.certificate.read_bytes()]
    assert not any(secret in each for secret in secrets for each in content)


def test_nothing_is_overwritten(coordinator: Coordinator) -> None:
    before = coordinator.authority.read_bytes()
    with pytest.raises(DeploymentError, match="never overwritten"):
        create(coordinator.folder)
    hand_over(coordinator, HOSPITAL)
    with pytest.raises(DeploymentError, match="never overwritten"):
        hand_over(coordinator, HOSPITAL)
    assert coordinator.authority.read_bytes() == before


def test_parties_come_back_as_they_were_written(coordinator: Coordinator) -> None:
    assert coordinator.parties() == [HOSPITAL, MINISTRY]
    with coordinator.changing_parties() as parties:
        parties["ministry"] = Party(*("ministry", MINISTRY.groups, "held-out", "key", "12"))
    assert coordinator.parties()[1].node_id == "12"
    registry = tomllib.loads(coordinator.registry.read_text())
    assert registry == {
        "nodes": {
            "ministry": {
                "node-id": "12",
                "groups": ["Japan", "Northern Ireland"],
                "role": "held-out",
            }
        }
    }


def test_a_failed_change_leaves_parties_as_they_were(coordinator: Coordinator) -> None:
    with pytest.raises(RuntimeError), coordinator.changing_parties() as parties:
        del parties["hospital"]
        raise RuntimeError
    assert coordinator.parties() == [HOSPITAL, MINISTRY]


def test_renewing_keeps_the_authority_and_takes_its_key_from_elsewhere(
    coordinator: Coordinator, tmp_path: Path
) -> None:
    before, authority = coordinator.certificate.read_bytes(), coordinator.authority.read_bytes()
    coordinator.authority_key.rename(tmp_path / "kept.key")
    with pytest.raises(DeploymentError, match="--ca-key"):
        coordinator.renew(5)
    coordinator.renew(5, tmp_path / "kept.key", ["new.example.org"])
    assert coordinator.certificate.read_bytes() != before
    assert coordinator.authority.read_bytes() == authority
    assert coordinator.address.names == ("new.example.org",)
    certificate = read_certificate(coordinator.certificate)
    named = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert "new.example.org" in named.get_values_for_type(x509.DNSName)


def test_a_folder_that_is_no_deployment_is_named(tmp_path: Path) -> None:
    with pytest.raises(DeploymentError, match="is not a deployment's folder"):
        Coordinator.open(tmp_path)


@pytest.mark.parametrize(
    ("text", "host", "port", "listen"),
    [
        ("link.example.org:8000", "link.example.org", 8000, "0.0.0.0"),
        ("127.0.0.1:81", "127.0.0.1", 81, "127.0.0.1"),
        ("localhost:81", "localhost", 81, "127.0.0.1"),
        ("[2001:db8::1]:9", "2001:db8::1", 9, "0.0.0.0"),
    ],
)
def test_addresses(text: str, host: str, port: int, listen: str) -> None:
    address = parse_address(text)
    assert (address.host, address.port, address.listen) == (host, port, listen)
    assert address.text == text


@pytest.mark.parametrize(
    "text", ["host", "https://host:80", "host:http", "host:0", "host:65536", ":80", ""]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(DeploymentError, match="expected HOST:PORT"):
        parse_address(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [("hospital", "NAME=GROUP"), ("Hospital=x", "lower-case"), ("a/b=x", "lower"), ("a=", "group")],
)
def test_what_is_no_party_is_refused(text: str, message: str) -> None:
    with pytest.raises(DeploymentError, match=message):
        parse_party(text, "train")


def test_two_parties_may_share_neither_name_nor_group(tmp_path: Path) -> None:
    with pytest.raises(DeploymentError, match="Two parties"):
        create(tmp_path / "a", HOSPITAL, Party("hospital", ("Japan",)))
    with pytest.raises(DeploymentError, match="hospital and with paper"):
        create(tmp_path / "b", HOSPITAL, Party("paper", ("Germany",)))
    assert not (tmp_path / "a").exists()


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    write_file(tmp_path / "key", b"old", secret=True)
    (tmp_path / "key").chmod(0o644)
    write_file(tmp_path / "key", b"new", secret=True)
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


@pytest.mark.parametrize("group", ['The "old" \\ town', "A\tB", "A\nB\x07", "São Tomé"])
def test_any_groups_name_survives_the_hand_over(coordinator: Coordinator, group: str) -> None:
    hand_over(coordinator, Party("paper", (group, "B")))
    folder = party_folder(coordinator, "paper")
    change(folder, 'data-path = ""', 'data-path = "x.csv"')
    assert read_supernode_config(folder).node.group == f"{group}|B"


def test_a_complete_party_folder_passes(party: Path) -> None:
    config = read_supernode_config(party)
    check_supernode(config, insecure=False)
    assert config.node.data_path == str(party / "survey.csv")
    assert config.given["state-path"] == str(party / "state")
    assert (party / "state").stat().st_mode & 0o777 == 0o700
    assert read_supernode_config(party / "supernode.toml") == config


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('data-path = "survey.csv"', 'data-path = ""', "data-path is empty or missing"),
        ('data-path = "survey.csv"', 'data-path = "gone.csv"', "gone.csv' does not exist"),
        ('group = "Germany"', 'group = "Gremany"', "Did you mean 'Germany'"),
        ('role = "train"', 'role = "teach"', "train, held-out"),
        ("state-path", "state-pth", "Did you mean 'state-path'"),
        ('"ca.crt"', '"gone.crt"', "gone.crt cannot be read"),
        ('"node.key"', '"gone.key"', "gone.key cannot be read"),
        ('"node.key"', '"node.pub"', "chmod 600"),
        ("[node]", "[nodes]", "unknown key 'nodes'"),
        ("address = ", "address: ", "is not valid TOML"),
        ("# max-epsilon = 8.0", "max-epsilon = 8.0", "privacy-unit beside it"),
    ],
)
def test_what_is_wrong_with_a_party_is_said_before_it_connects(
    party: Path, old: str, new: str, message: str
) -> None:
    change(party, old, new)
    with pytest.raises(UserError, match=message):
        check_supernode(read_supernode_config(party), insecure=False)


def test_a_malformed_survey_is_said_before_the_node_connects(party: Path) -> None:
    (party / "survey.csv").write_text(SURVEY.replace(",3", ",many"))
    with pytest.raises(SurveyError, match="data row 1: count = 'many'"):
        check_supernode(read_supernode_config(party), insecure=False)


def test_a_group_belongs_to_one_party_also_when_it_comes_later(coordinator: Coordinator) -> None:
    changing = coordinator.changing_parties()
    with pytest.raises(DeploymentError, match="hospital and with radio"), changing as parties:
        parties["radio"] = Party("radio", ("Germany",))
    assert [party.name for party in coordinator.parties()] == ["hospital", "ministry"]


def test_a_state_folder_that_is_shared_stays_so(party: Path) -> None:
    (party / "shared").mkdir(mode=0o755)
    change(party, 'state-path = "state"', 'state-path = "shared"')
    check_supernode(read_supernode_config(party), insecure=False)
    assert (party / "shared").stat().st_mode & 0o777 == 0o755
