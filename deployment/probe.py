"""Is a SuperLink there, and is it the right one? Asked with TLS alone, before any credential."""

import http.client
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path

PROBE_SECONDS = 5.0


@dataclass(frozen=True)
class Probe:
    """What was found at an address.

    Attributes:
        up: a SuperLink answered.
        wrong: something answered, and waiting will not make it the right one.
        reason: why not, and what to do; empty when it is up.
    """

    up: bool
    wrong: bool = False
    reason: str = ""


def probe(host: str, port: int, authority: Path | None, *, any_name: bool = False) -> Probe:
    """Ask `/health` of a SuperLink.

    Args:
        host: its name or address.
        port: its port.
        authority: the certificate authority's certificate; None: without TLS.
        any_name: whether the server's certificate may be for another name, as on its own machine.
    """
    where = f"{host}:{port}"
    connection: http.client.HTTPConnection
    if authority is None:
        connection = http.client.HTTPConnection(host, port, timeout=PROBE_SECONDS)
    else:
        context = ssl.create_default_context(cafile=str(authority))
        context.check_hostname = not any_name
        connection = http.client.HTTPSConnection(host, port, timeout=PROBE_SECONDS, context=context)
    try:
        connection.request("GET", "/health")
        status = connection.getresponse().status
    except ssl.SSLCertVerificationError as error:
        return Probe(False, True, _distrust(where, error))
    except ssl.SSLError as error:
        return Probe(False, True, f"{where} does not speak TLS ({error.reason}). Is it the port?")
    except socket.gaierror:
        return Probe(False, False, f"The name {host} cannot be resolved. Check address and DNS.")
    except (OSError, http.client.HTTPException) as error:
        hung_up = isinstance(error, http.client.BadStatusLine | ConnectionResetError)
        if hung_up and authority is None:
            advice = "Leave --insecure out, if the SuperLink has certificates."
            return Probe(False, True, f"{where} answers nobody without TLS. {advice}")
        reason = getattr(error, "strerror", None) or type(error).__name__
        return Probe(False, False, f"Nobody answers at {where} ({reason}).")
    finally:
        connection.close()
    if status != 200:
        return Probe(False, True, f"{where} answers, but is no SuperLink (HTTP status {status}).")
    return Probe(True)


def _distrust(where: str, error: ssl.SSLCertVerificationError) -> str:
    said = error.verify_message
    if "expired" in said:
        advice = "The coordinator renews it with `pluralllm deploy renew` (or a clock is wrong)."
    elif "mismatch" in said:
        advice = (
            "The coordinator adds this name with `pluralllm deploy renew --name`, or gives the "
            "right address."
        )
    elif "not yet valid" in said:
        advice = "Set the clock of this machine."
    else:
        advice = "ca.crt is of another deployment, or somebody stands in between: ask for it again."
    return f"The certificate of {where} is refused: {said}. {advice}"
