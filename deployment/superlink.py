"""The coordinator's SuperLink, supervised: TLS, known nodes only, state that outlives it."""

import threading
from collections.abc import Callable

from deployment import flower
from deployment.certificates import days_left, read_certificate
from deployment.coordinator import Coordinator
from deployment.gateway import open_gateway
from deployment.log import ProcessLog, process_log
from deployment.probe import Probe, probe
from deployment.registration import register_parties
from deployment.supervisor import Ended, Supervisor, sole_owner
from task.errors import DeploymentError

POLL_SECONDS = 0.5
RETRY_SECONDS = 10.0
EXPIRY_WARNING_DAYS = 30
WARNING_SECONDS = 86_400.0


def run_superlink(coordinator: Coordinator, *, insecure: bool = False) -> None:
    """Run the SuperLink in the foreground until this process is told to stop.

    Raises:
        DeploymentError: it cannot start: a port in use, a certificate that is missing or expired.
    """
    log = process_log(coordinator.logs / "superlink.log")
    with sole_owner(coordinator.flower_home):
        if insecure:
            log.say(
                "WARNING: --insecure: nothing is encrypted, and whoever reaches port "
                f"{coordinator.address.port} may take part or start runs. For tests on one machine."
            )
            coordinator.write_connection(coordinator.address.port, insecure=True)
            supervisor = _supervisor(coordinator, log, insecure=True)
            supervisor.run(lambda: superlink_command(coordinator, insecure=True))
            return
        read_certificate(coordinator.authority)
        _warn_of_expiry(coordinator, log.say)
        supervisor = _supervisor(coordinator, log, insecure=False)

        def ended() -> None:
            supervisor.fail("The gateway has ended, so no node can come in. Start again.")

        with open_gateway(coordinator, flower.free_port(), ended) as gateway:

            def command() -> list[str]:
                gateway.port = flower.free_port()  # the former one may be taken meanwhile
                coordinator.write_connection(gateway.port, insecure=False)
                return superlink_command(coordinator, insecure=False)

            supervisor.run(command)


def _supervisor(coordinator: Coordinator, log: ProcessLog, *, insecure: bool) -> Supervisor:
    return Supervisor(
        flower.environment(coordinator.flower_home),
        coordinator.flower_home,
        output=log.output,
        say=log.say,
        explain=_explain,
        started=lambda over: _follow(coordinator, insecure=insecure, over=over, say=log.say),
    )


def superlink_command(coordinator: Coordinator, *, insecure: bool) -> list[str]:
    """Return the SuperLink's command line; nodes reach it through `deployment.gateway`."""
    own = "127.0.0.1"
    listen = "0.0.0.0" if insecure and coordinator.address.listen != own else own
    command = [flower.program("flower-superlink"), "--host", listen]
    command += ["--port", str(coordinator.local_port), "--database", str(coordinator.state)]
    command += ["--disable-runtime-dependency-installation"]
    if insecure:
        return [*command, "--insecure"]
    command += ["--ssl-ca-certfile", str(coordinator.authority)]
    command += ["--ssl-certfile", str(coordinator.certificate)]
    command += ["--ssl-keyfile", str(coordinator.certificate)]
    return [*command, "--enable-supernode-auth"]


def probe_superlink(coordinator: Coordinator) -> Probe:
    """Say whether the coordinator's SuperLink answers where nodes come in."""
    if coordinator.is_insecure:
        return probe("127.0.0.1", coordinator.local_port, None)
    address = coordinator.address
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address.listen, address.listen)
    return probe(host, address.port, coordinator.authority, any_name=True)


def _warn_of_expiry(coordinator: Coordinator, say: Callable[[str], None]) -> None:
    left = days_left(read_certificate(coordinator.certificate))
    if left < EXPIRY_WARNING_DAYS:
        say(f"WARNING: the server's certificate ends in {left} days: run `pluralllm deploy renew`.")


def _warn_daily(
    coordinator: Coordinator, over: threading.Event, say: Callable[[str], None]
) -> None:
    while not over.wait(WARNING_SECONDS):
        try:
            _warn_of_expiry(coordinator, say)
        except DeploymentError as error:  # it has expired, or is gone
            say(f"WARNING: {error}")


def _follow(
    coordinator: Coordinator,
    *,
    insecure: bool,
    over: threading.Event,
    say: Callable[[str], None],
) -> None:
    """Wait until the SuperLink answers, register who is not yet registered, and warn of expiry."""
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
            break
    if not insecure:
        _warn_daily(coordinator, over, say)


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
