"""A party's SuperNode, supervised: it comes back after a restart, a lost link or a crash."""

import time
from dataclasses import dataclass, field

from deployment import flower
from deployment.files import make_folder, write_toml
from deployment.log import process_log
from deployment.node_auth import UNKNOWN_KEY, WRONG_CLOCK
from deployment.node_keys import check_private_key
from deployment.probe import probe
from deployment.supernode_config import SuperNodeConfig
from deployment.supervisor import Ended, Supervisor, sole_owner

STILL_ONLINE_SECONDS = 60
"""Flower counts a node that vanished as online until two heartbeats are missing, and refuses its
return so long; it says no more than it does to a key that it does not know."""


def run_supernode(config: SuperNodeConfig, *, insecure: bool = False, port: int = 0) -> None:
    """Run the SuperNode in the foreground until this process is told to stop.

    Args:
        config: checked settings.
        insecure: without TLS and authentication, as the SuperLink was started.
        port: of the node's own interface on this machine's loopback address. 0: a free one.

    Raises:
        DeploymentError: another process runs this folder's node, or the port is in use.
    """
    make_folder(home := config.folder / "flower")
    make_folder(logs := config.folder / "logs")
    log = process_log(logs / "supernode.log")
    node_config = home / "node-config.toml"
    write_toml(node_config, config.given, "Written by `pluralllm deploy supernode`.")
    command = [flower.program("flower-supernode"), "--superlink", config.address.text]
    command += ["--host", "127.0.0.1"]
    command += ["--node-config", str(node_config)]
    if insecure:
        command += ["--insecure"]
        log.say("WARNING: --insecure: nothing is encrypted, and any SuperLink is believed.")
        identity = ""
    else:
        command += ["--root-certificates", str(config.authority)]
        command += ["--auth-supernode-private-key", str(config.private_key)]
        identity = f" with the key {check_private_key(config.private_key).fingerprint}"
    log.say(f"Connecting to {config.address.text}{identity}.")
    found = probe(config.address.host, config.address.port, None if insecure else config.authority)
    if not found.up:
        log.say(found.reason)
    supervisor = Supervisor(
        flower.environment(home),
        home,
        output=log.output,
        say=log.say,
        explain=Refusals(config, insecure=insecure).explain,
    )
    with sole_owner(home):
        supervisor.run(  # another port each time: the former one may be taken meanwhile
            lambda: [*command, "--port", str(port or flower.free_port())]
        )


@dataclass
class Refusals:
    """Says why a SuperNode has ended.

    Flower exits with 1, or 0, whatever the reason; its last lines tell some of it, asking the
    SuperLink with TLS alone some more. That a key is unknown and that its node still counts as
    online look the same, so time must tell.

    Attributes:
        config: the node's settings.
        insecure: without TLS and authentication.
        refused_since: when the SuperLink first refused the node, if it has done so ever since.
    """

    config: SuperNodeConfig
    insecure: bool
    refused_since: float | None = field(init=False, default=None)

    def explain(self, ended: Ended) -> str:
        """Return a sentence or two: what happened, and what to do."""
        text = "\n".join(ended.lines)
        if "Failed to activate SuperNode" in text:
            return self._refused()
        self.refused_since = None
        if UNKNOWN_KEY in text:
            return (
                "The SuperLink refuses this node: its key "
                f"{check_private_key(self.config.private_key).fingerprint} is not registered (send "
                "node.pub to the coordinator, for `pluralllm deploy add`), or was removed."
            )
        if WRONG_CLOCK in text:
            return self._ended_itself()
        if "SuperNode terminated gracefully" in text:
            return self._ended_itself()
        if "Exit Code: 606" in text:
            return "The SuperLink runs another version of Flower: install the same one here."
        if "Exit Code: 305" in text or "SSL/TLS handshake error" in text:
            authority = None if self.insecure else self.config.authority
            found = probe(self.config.address.host, self.config.address.port, authority)
            if found.reason:
                return found.reason
        return f"The SuperNode ended (exit status {ended.status}); its last lines are above."

    def _ended_itself(self) -> str:
        fingerprint = check_private_key(self.config.private_key).fingerprint
        return (
            f"The SuperLink refuses this node: its key {fingerprint} is not registered (send "
            "node.pub to the coordinator, for `pluralllm deploy add`) or was removed, or the clock "
            f"here ({time.strftime('%Y-%m-%d %H:%M:%S %Z')}) is minutes off."
        )

    def _refused(self) -> str:
        now = time.monotonic()
        self.refused_since = self.refused_since if self.refused_since is not None else now
        if now - self.refused_since < STILL_ONLINE_SECONDS:
            return (
                "The SuperLink refuses this node: it still counts as online there (at most "
                f"{STILL_ONLINE_SECONDS} s after it vanished), or its key is not registered yet."
            )
        fingerprint = check_private_key(self.config.private_key).fingerprint
        return (
            f"The SuperLink refuses this node for {now - self.refused_since:.0f} s: its key "
            f"{fingerprint} is not registered (send node.pub to the coordinator, for `pluralllm "
            "deploy add`), was removed, or is in use by another running SuperNode."
        )
