"""TLS: a certificate authority of the deployment's own, and the SuperLink's certificate.

Keys are NIST P-384. Parties get the authority's certificate and accept a SuperLink whose
certificate it has signed, for the name by which they call it. Nobody else's authority counts.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from task.errors import DeploymentError

LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
"""How the coordinator's own commands, and the ServerApp, call the SuperLink."""

CLOCK_SKEW = timedelta(hours=1)
"""Certificates are valid from so much earlier: clocks of other machines may be behind."""


@dataclass(frozen=True)
class Issued:
    """A certificate and its private key, both PEM."""

    certificate: bytes
    key: bytes


def make_authority(days: int) -> Issued:
    """Make a self-signed certificate authority that can sign server certificates only.

    Args:
        days: how long it is valid; server certificates that it signs end with it.
    """
    key = ec.generate_private_key(ec.SECP384R1())
    name = _name("pluralllm deployment's certificate authority")
    certificate = (
        _builder(name, name, key.public_key(), _now() + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .sign(key, hashes.SHA384())
    )
    return Issued(certificate.public_bytes(serialization.Encoding.PEM), _pem(key))


def issue_server_certificate(authority: Issued, names: Iterable[str], days: int) -> Issued:
    """Make the SuperLink's key and certificate, for `names` and this machine's own.

    Args:
        authority: signs it.
        names: host names and IP addresses by which the parties call the SuperLink.
        days: how long it is valid, at most until the authority's own end.

    Raises:
        DeploymentError: the authority's files are damaged, do not belong together, or have expired.
    """
    issuer = load_certificate(authority.certificate, "The certificate authority's certificate")
    issuer_key = _load_key(authority.key, issuer)
    if issuer.not_valid_after_utc <= _now():
        raise DeploymentError(
            f"The certificate authority expired on {issuer.not_valid_after_utc:%Y-%m-%d}. Make a "
            "new deployment (`pluralllm deploy init`) and give every party its ca.crt."
        )
    key = ec.generate_private_key(ec.SECP384R1())
    until = min(_now() + timedelta(days=days), issuer.not_valid_after_utc)
    alternatives = [_alternative(name) for name in dict.fromkeys((*names, *LOCAL_NAMES))]
    certificate = (
        _builder(_name("pluralllm SuperLink"), issuer.subject, key.public_key(), until)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()),
            critical=False,
        )
        .sign(issuer_key, hashes.SHA384())
    )
    return Issued(certificate.public_bytes(serialization.Encoding.PEM), _pem(key))


def load_certificate(pem: bytes, what: str) -> x509.Certificate:
    """Read a PEM certificate; `what` begins the error's sentence.

    Raises:
        DeploymentError: it is none.
    """
    try:
        return x509.load_pem_x509_certificate(pem)
    except ValueError:
        raise DeploymentError(f"{what} is not a PEM certificate. Get the file again.") from None


def read_certificate(path: Path) -> x509.Certificate:
    """Read a certificate's file.

    Raises:
        DeploymentError: it is missing, no certificate, or has expired.
    """
    try:
        pem = path.read_bytes()
    except OSError as error:
        raise DeploymentError(f"{path} cannot be read: {error.strerror}.") from None
    certificate = load_certificate(pem, str(path))
    if certificate.not_valid_after_utc <= _now():
        raise DeploymentError(
            f"{path} expired on {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC. The "
            "coordinator renews the server's with `pluralllm deploy renew`; a new ca.crt comes "
            "with a new deployment only."
        )
    return certificate


def days_left(certificate: x509.Certificate) -> int:
    """Return the whole days until a certificate ends; negative when it has."""
    return (certificate.not_valid_after_utc - _now()).days


def _load_key(pem: bytes, certificate: x509.Certificate) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError):
        raise DeploymentError(
            "The certificate authority's key is not an unencrypted PEM key. Restore ca.key."
        ) from None
    if (
        not isinstance(key, ec.EllipticCurvePrivateKey)
        or key.public_key() != certificate.public_key()
    ):
        raise DeploymentError(
            "The certificate authority's key and certificate (ca.key, ca.crt) do not belong "
            "together. Restore both from the same deployment."
        )
    return key


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, until: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_now() - CLOCK_SKEW)
        .not_valid_after(until)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        pass  # not an address, so a host name
    try:
        return x509.DNSName(name)
    except ValueError:
        raise DeploymentError(
            f"{name!r} cannot stand in a certificate. Expected a host name (of ASCII letters, "
            "digits, `-` and `.`) or an IP address."
        ) from None


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _now() -> datetime:
    return datetime.now(UTC)
