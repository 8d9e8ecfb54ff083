"""A certificate authority, a server certificate and node keys, made by openssl and ssh-keygen."""

import subprocess
from pathlib import Path


def make_certificates(folder: Path, address: str) -> None:
    """Write `ca.crt`, `ca.key`, `server.pem` and `server.key` for an IPv4 address."""
    folder.mkdir(parents=True, exist_ok=True)
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-384", "-nodes", "-days", "30"]
    _openssl(
        folder,
        *["req", "-x509", *curve, "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=testbed CA"],
        *["-addext", "basicConstraints=critical,CA:TRUE"],
        *["-addext", "keyUsage=critical,keyCertSign,cRLSign"],
    )
    _openssl(
        folder,
        *["req", "-new", *curve[:-2], "-keyout", "server.key", "-out", "server.csr"],
        *["-subj", "/CN=testbed server"],
    )
    (folder / "san.cnf").write_text(f"subjectAltName=IP:{address},IP:127.0.0.1,DNS:localhost\n")
    _openssl(
        folder,
        *["x509", "-req", "-in", "server.csr", "-CA", "ca.crt", "-CAkey", "ca.key"],
        *["-CAcreateserial", "-days", "30", "-out", "server.pem", "-extfile", "san.cnf"],
    )


def make_node_key(file: Path) -> None:
    """Write a SuperNode's private key, and its public one as `<file>.pub`."""
    file.parent.mkdir(parents=True, exist_ok=True)
    command = ["ssh-keygen", "-q", "-t", "ecdsa", "-b", "384", "-N", "", "-C", "", "-f", str(file)]
    subprocess.run(command, check=True, capture_output=True)


def _openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)
