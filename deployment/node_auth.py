"""Who may pass the gateway: holders of a party's key, told by a request's headers alone.

Flower checks the same headers, but only after it has read the whole body into memory: without this
whoever reaches the port could fill the coordinator's memory. The rules are Flower's own: a PEM
public key, a time, and the key's ECDSA signature of that time, which is at most 305 s old.
"""

from base64 import b64decode
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from deployment.coordinator import Coordinator
from deployment.parties import Party
from task.errors import DeploymentError

PUBLIC_KEY, SIGNATURE, TIMESTAMP = b"flwr-public-key", b"flwr-signature", b"flwr-timestamp"
AHEAD_SECONDS, BEHIND_SECONDS = 5, 305
"""Flower's tolerances. They and the names are here since importing Flower takes seconds, and every
`pluralllm` command would; the tests sign with Flower's own code."""
UNKNOWN_KEY = "This key is not registered."
WRONG_CLOCK = "The clocks differ by minutes."
MALFORMED = "Not signed with a node's key."

Headers = Iterable[tuple[bytes, bytes]]


class NodeAuthentication:
    """Checks requests against the keys in `parties.toml`, as the file is at that moment.

    Args:
        coordinator: whose parties may pass.
    """

    def __init__(self, coordinator: Coordinator) -> None:
        self._coordinator = coordinator
        self._version: tuple[int, int] | None = None
        self._keys: dict[bytes, ec.EllipticCurvePublicKey] = {}

    def objection(self, headers: Headers) -> str:
        """Return why a request must not pass; empty: it may.

        Args:
            headers: names in lower case, as ASGI has them.

        Raises:
            DeploymentError: `parties.toml` cannot be read.
        """
        found: dict[bytes, bytes] = {}
        for name, value in headers:
            if name in (PUBLIC_KEY, SIGNATURE, TIMESTAMP):
                if name in found:
                    return MALFORMED
                found[name] = value
        try:
            encoded = b64decode(found[PUBLIC_KEY], validate=True)
            signature = b64decode(found[SIGNATURE], validate=True)
            signed_at = datetime.fromisoformat(found[TIMESTAMP].decode("ascii"))
            age = (datetime.now(UTC) - signed_at).total_seconds()
        except (KeyError, ValueError, TypeError, OverflowError):
            return MALFORMED
        key = self._known_keys().get(encoded)  # nothing of a stranger's is parsed as a key
        if key is None:
            return UNKNOWN_KEY
        try:
            key.verify(signature, found[TIMESTAMP], ec.ECDSA(hashes.SHA256()))
        except InvalidSignature:
            return MALFORMED
        if not -AHEAD_SECONDS < age < BEHIND_SECONDS:
            return WRONG_CLOCK
        return ""

    def _known_keys(self) -> dict[bytes, ec.EllipticCurvePublicKey]:
        version = _version(self._coordinator.parties_file)
        if version != self._version:
            self._keys = {
                key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo): key
                for key in map(_parse, self._coordinator.parties())
                if key is not None
            }
            self._version = version
        return self._keys


def _parse(party: Party) -> ec.EllipticCurvePublicKey | None:
    if not party.public_key:
        return None  # it has not sent one yet
    try:
        key = serialization.load_ssh_public_key(party.public_key.encode())
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise DeploymentError(
            f"parties.toml: public-key of {party.name} is not a node's key. Take it in with "
            "`pluralllm deploy add`."
        )
    return key


def _version(file: Path) -> tuple[int, int]:
    """Return what changes whenever the file is replaced or edited."""
    try:
        status = file.stat()
    except OSError as error:
        raise DeploymentError(f"{file} cannot be read: {error.strerror}.") from None
    return status.st_mtime_ns, status.st_ino
