"""A SuperNode's key pair: by its public key the SuperLink knows the party.

Flower takes NIST curves in OpenSSH's format without a passphrase, nothing else (no ed25519).
"""

import base64
import hashlib
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from deployment.files import write_file
from task.errors import DeploymentError

CURVES = ("secp256r1", "secp384r1", "secp521r1")
PRIVATE_KEY = "node.key"
PUBLIC_KEY = "node.pub"


@dataclass(frozen=True)
class PublicKey:
    """A node's public key, in OpenSSH's format without a comment."""

    text: str

    @property
    def fingerprint(self) -> str:
        """What `ssh-keygen -l` shows, for both ends to compare by telephone."""
        blob = base64.b64decode(self.text.split()[1])
        digest = base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")
        return f"SHA256:{digest}"


def make_node_key(folder: Path) -> PublicKey:
    """Write a new key pair into a folder, `node.key` (mode 0600) and `node.pub`.

    Raises:
        DeploymentError: a key is there already, or the folder is not.
    """
    file = folder / PRIVATE_KEY
    if not folder.is_dir():
        raise DeploymentError(f"{folder} is not a folder. Give the one with supernode.toml.")
    if file.exists():
        raise DeploymentError(
            f"{file} exists already, and a key is never overwritten. Send the coordinator "
            f"{folder / PUBLIC_KEY}, or move both away for a new key."
        )
    key = ec.generate_private_key(ec.SECP384R1())
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH,
        serialization.NoEncryption(),
    )
    public = public_key_text(key.public_key())
    write_file(folder / PUBLIC_KEY, f"{public.text}\n".encode())
    write_file(file, private, secret=True)
    return public


def read_public_key(path: Path) -> PublicKey:
    """Read a node's public key.

    Raises:
        DeploymentError: the file is missing or holds another kind of key.
    """
    content = _read(path)
    if b"PRIVATE KEY" in content:
        raise DeploymentError(
            f"{path} is a private key, which must stay on the party's machine. Expected its "
            f"{PUBLIC_KEY}."
        )
    try:
        key = serialization.load_ssh_public_key(content)
    except (ValueError, UnsupportedAlgorithm):
        raise DeploymentError(
            f"{path} is not a public key in OpenSSH's format. Expected the {PUBLIC_KEY} that "
            "`pluralllm deploy key` writes."
        ) from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in CURVES:
        raise DeploymentError(_other_kind(path))
    return public_key_text(key)


def check_private_key(path: Path) -> PublicKey:
    """Check a node's private key: there, for its owner only, of the right kind.

    Raises:
        DeploymentError: one of these is not so.
    """
    content = _read(path)
    mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        raise DeploymentError(
            f"{path} has mode {mode:04o}: others may read this private key. Run `chmod 600 {path}`."
        )
    try:
        key = serialization.load_ssh_private_key(content, password=None)
    except TypeError:
        raise DeploymentError(
            f"{path} has a passphrase, which Flower cannot ask for. Remove it (`ssh-keygen -p -f "
            f"{path}`), or make a new key with `pluralllm deploy key`."
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise DeploymentError(
            f"{path} is not a private key in OpenSSH's format. Make one with `pluralllm deploy "
            "key`."
        ) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name not in CURVES:
        raise DeploymentError(_other_kind(path))
    return public_key_text(key.public_key())


def public_key_text(key: ec.EllipticCurvePublicKey) -> PublicKey:
    """Return a key as it stands in `node.pub`."""
    encoded = key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return PublicKey(encoded.decode())


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DeploymentError(
            f"{path} cannot be read: {error.strerror}. `pluralllm deploy key` makes a key pair."
        ) from None


def _other_kind(path: Path) -> str:
    return (
        f"{path} is a key of another kind. Flower takes NIST elliptic curves only; make one with "
        "`pluralllm deploy key`."
    )
