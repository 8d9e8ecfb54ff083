import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from deployment.node_keys import check_private_key, make_node_key, read_public_key
from task.errors import DeploymentError


def test_a_key_pair_is_made_once_and_for_its_owner_only(tmp_path: Path) -> None:
    public = make_node_key(tmp_path)
    assert (tmp_path / "node.key").stat().st_mode & 0o777 == 0o600
    assert public.text.startswith("ecdsa-sha2-nistp384 ")
    assert read_public_key(tmp_path / "node.pub") == public
    assert check_private_key(tmp_path / "node.key") == public
    with pytest.raises(DeploymentError, match="never overwritten"):
        make_node_key(tmp_path)
    assert check_private_key(tmp_path / "node.key") == public


def test_the_fingerprint_is_that_of_ssh_keygen(tmp_path: Path) -> None:
    public = make_node_key(tmp_path)
    shown = subprocess.run(
        ["ssh-keygen", "-l", "-f", str(tmp_path / "node.pub")], capture_output=True, text=True
    )
    assert public.fingerprint in shown.stdout


def test_a_readable_private_key_is_refused(tmp_path: Path) -> None:
    make_node_key(tmp_path)
    (tmp_path / "node.key").chmod(0o640)
    with pytest.raises(DeploymentError, match=r"mode 0640.*chmod 600"):
        check_private_key(tmp_path / "node.key")


def openssh(key: ed25519.Ed25519PrivateKey, password: bytes | None = None) -> bytes:
    encryption = (
        serialization.BestAvailableEncryption(password)
        if password
        else serialization.NoEncryption()
    )
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, encryption
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (openssh(ed25519.Ed25519PrivateKey.generate()), "NIST elliptic curves only"),
        (b"nonsense", "not a private key"),
    ],
)
def test_another_kind_of_private_key_is_refused(
    tmp_path: Path, content: bytes, message: str
) -> None:
    (tmp_path / "node.key").write_bytes(content)
    (tmp_path / "node.key").chmod(0o600)
    with pytest.raises(DeploymentError, match=message):
        check_private_key(tmp_path / "node.key")


def test_a_private_key_is_not_taken_for_a_public_one(tmp_path: Path) -> None:
    make_node_key(tmp_path)
    with pytest.raises(DeploymentError, match="must stay on the party's machine"):
        read_public_key(tmp_path / "node.key")
    key = ed25519.Ed25519PrivateKey.generate().public_key()
    (tmp_path / "ed.pub").write_bytes(
        key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    )
    with pytest.raises(DeploymentError, match="another kind"):
        read_public_key(tmp_path / "ed.pub")
    with pytest.raises(DeploymentError, match="cannot be read"):
        read_public_key(tmp_path / "gone.pub")
