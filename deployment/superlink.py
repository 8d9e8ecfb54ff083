"""The coordinator's SuperLink, supervised: TLS, known nodes only, state that outlives it."""

import socket
import threading
from collections.abc import Callable

from deployment import flower
from deployment.certificates import days_left, read_certificate
from deployment.coordinator import Coordinator
from deployment.log import process_log
from deployment.probe import Probe, probe
from deployment.registration import register_parties
from deployment.supervisor import Ended, Supervisor
from task.errors import DeploymentError

POLL_SECONDS = 0.5
RETRY_SECONDS = 10.0
EXPIRY_WARNING_DAYS = 30


def run_superlink(coordinator: Coordinator, *, insecure: bool = False) -> None:
    """Run the SuperLink in the foreground until this process is told to stop.

    Raises:
        DeploymentError: it cannot start: a port in use, a certificate that is missing or expired.
    """
    log = process_log(coordinator.logs / "superlink.log")
    _check(coordinator, insecure=insecure, say=log.say)
    coordinator.write_connection(insecure=insecure)
    if insecure:
        log.say(
            "WARNING: --insecure: nothing is encrypted, and whoever reaches port "
            f"{coordinator.address.port} may take part or start runs. For tests on one machine."
        )
    Supervisor(
        superlink_command(coordinator, insecure=insecure),
        flower.environment(coordinator.flower_home),
        coordinator.flower_home,
        output=log.output,
        say=log.say,
        explain=_explain,
        started=lambda over: _follow(coordinator, insecure=insecure, over=over, say=log.say),
    ).run()


def superlink_command(coordinator: Coordinator, *, insecure: bool) -> list[str]:
    """Return the SuperLink's command line.

    Flower has one port for nodes, for `flwr` and for the ServerApp. It authenticates nodes only:
    whoever reaches the port and trusts the certificate may start a run. docs/deploy.md says how to
    let the parties reach nothing but `/v1/fleet/`.
    """
    address = coordinator.address
    command = [flower.program("flower-superlink"), "--host", address.listen]
    command += ["--port", str(address.port), "--database", str(coordinator.state)]
    command += ["--disable-runtime-dependency-installation"]
    if insecure:
        return [*command, "--insecure"]
    command += ["--ssl-ca-certfile", str(coordinator.authority)]
    command += ["--ssl-certfile", str(coordinator.certificate)]
    command += ["--ssl-keyfile", str(coordinator.key)]
    return [*command, "--enable-supernode-auth"]


def probe_superlink(coordinator: Coordinator) -> Probe:
    """Say whether the coordinator's SuperLink answers on this machine."""
    host, _, port = coordinator.address.local.rpartition(":")
    authority = None if coordinator.is_insecure else coordinator.authority
    return probe(host.strip("[]"), int(port), authority)


def _check(coordinator: Coordinator, *, insecure: bool, say: Callable[[str], None]) -> None:
    address = coordinator.address
    family = socket.AF_INET6 if ":" in address.listen else socket.AF_INET
    with socket.socket(family) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((address.listen, address.port))
        except OSError as error:
            raise DeploymentError(
                f"The SuperLink cannot listen on {address.listen}:{address.port}: "
                f"{error.strerror}. Stop what is using the port, or change superlink.toml."
            ) from None
    if insecure:
        return
    read_certificate(coordinator.authority)
    left = days_left(read_certificate(coordinator.certificate))
    if left < EXPIRY_WARNING_DAYS:
        say(f"WARNING: the server's certificate ends in {left} days: run `pluralllm deploy renew`.")


def _follow(
    coordinator: Coordinator,
    *,
    insecure: bool,
    over: threading.Event,
    say: Callable[[str], None],
) -> None:
    """Wait until the SuperLink answers, then register who is not yet registered."""
    while not probe_superlink(coordinator).up:
        if over.wait(POLL_SECONDS):
            return
    say(f"The SuperLink answers at {coordinator.address.text}.")
    while not insecure and not over.is_set():
        try:
            for line in register_parties(coordinator):
                say(line)
        except DeploymentError as error:
            say(f"{error} Trying again in {RETRY_SECONDS:.0f} s.")
            over.wait(RETRY_SECONDS)
        else:
            say(f"Nodes are known; the registry is {coordinator.registry}.")
            return


def _explain(ended: Ended) -> str:
    text = "\n".join(ended.lines)
    if "address already in use" in text:
        return "The SuperLink ended: its port is in use."
    if "Exit Code: 105" in text:
        return (
            "The SuperLink ended: its database (state.db) is of another version of Flower. Install "
            "that version, or move the database away: all nodes are then registered anew."
        )
    return f"The SuperLink ended (exit status {ended.status}); a run in progress has failed."
