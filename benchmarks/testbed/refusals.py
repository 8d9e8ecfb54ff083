"""What a deployment must refuse, each tried for real, with the message it gives."""

import re
import shutil
from pathlib import Path

from benchmarks.testbed.deployment import COORDINATOR, Deployment
from benchmarks.testbed.network import Network
from benchmarks.testbed.parties import Party
from benchmarks.testbed.processes import Daemon, wait_until

REFUSAL_SECONDS = 150.0
COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class Refusals:
    """Tries what must be refused, on a deployment that runs.

    Args:
        deployment: with TLS and node keys; the party's own SuperNode does not run.
        party: whose folder is changed for the worse.
        folder: where changed copies of it go.
    """

    def __init__(self, deployment: Deployment, party: Party, folder: Path) -> None:
        self.deployment, self.party, self.folder = deployment, party, folder

    def unregistered_key(self) -> str:
        """A new key that the coordinator has never seen."""
        copy = self._copy("unregistered-key")
        for file in copy.glob("node.*"):
            file.unlink()
        self.deployment.command(self.party.name, "deploy", "key", str(copy))
        return self._refused(copy, r"refuses this node")

    def no_key(self) -> str:
        """No key at all."""
        copy = self._copy("no-key")
        for file in copy.glob("node.*"):
            file.unlink()
        return self._refused(copy, r"error: ")

    def wrong_authority(self, other: Path) -> str:
        """A certificate authority that has not signed the SuperLink's certificate."""
        copy = self._copy("wrong-authority")
        shutil.copy(other, copy / "ca.crt")
        return self._refused(copy, r"certificate")

    def plain_http(self) -> str:
        """A SuperNode that speaks HTTP without TLS."""
        copy = self._copy("plain-http")
        return self._refused(copy, r"answers nobody without TLS", "--insecure")

    def other_group(self, group: str) -> str:
        """A known node that claims a group which is not its own.

        Its SuperNode stays connected; only a run hears of the claim. Returns that run's words.
        """
        copy = self._copy("other-group")
        settings = copy / "supernode.toml"
        text = settings.read_text()
        settings.write_text(text.replace(f'group = "{self.party.group}"', f'group = "{group}"'))
        data = copy / "claimed.csv"
        claim_data(self.party, group, data)
        settings.write_text(settings.read_text().replace(str(self.party.data), str(data)))
        daemon = self.deployment.start_supernode(self.party, folder=copy)
        try:
            run = self.deployment.start_run(
                self.folder / "other-group-run", {"nodes.patience": 20.0, "train.num-rounds": 1}
            )
            run.wait(REFUSAL_SECONDS * 2)
            return _sentence(run.command.output, "is refused")
        finally:
            daemon.kill()

    def unknown_setting(self) -> str:
        """A run setting that does not exist."""
        try:
            self.deployment.command(
                COORDINATOR, "deploy", "run", str(self.deployment.coordinator), "train.num-round=3"
            )
        except RuntimeError as error:
            return _sentence(str(error), "error:")
        raise AssertionError("a run with an unknown setting was started")

    def _copy(self, name: str) -> Path:
        copy = self.folder / name
        shutil.copytree(
            self.deployment.party_folder(self.party.name),
            copy,
            ignore=shutil.ignore_patterns("flower", "logs"),
        )
        return copy

    def _refused(self, copy: Path, pattern: str, *options: str) -> str:
        daemon = self.deployment.start_supernode(
            self.party, wait=False, folder=copy, options=options
        )
        try:
            return _first_match(daemon, pattern)
        finally:
            daemon.kill()


def try_all(deployment: Deployment, party: Party, folder: Path, network: Network) -> dict[str, str]:
    """Try all refusals; return the message of each.

    Args:
        deployment: a running one.
        party: whose SuperNode does not run.
        folder: for what is made on the way.
        network: to make another deployment's certificates for.
    """
    stranger = Deployment(folder / "stranger", network, deployment.split)
    stranger.folder.mkdir(parents=True)
    stranger.command(
        COORDINATOR, "deploy", "init", str(stranger.coordinator), f"--address={stranger.address}"
    )
    refusals = Refusals(deployment, party, folder)
    others = [other for other in deployment.split.parties if other.name != party.name]
    return {
        "unregistered key": refusals.unregistered_key(),
        "no key": refusals.no_key(),
        "wrong certificate authority": refusals.wrong_authority(
            stranger.coordinator / "coordinator" / "ca.crt"
        ),
        "plain HTTP": refusals.plain_http(),
        "unknown run setting": refusals.unknown_setting(),
        "another party's group": refusals.other_group(others[0].group),
    }


def claim_data(party: Party, group: str, file: Path) -> None:
    """Write a party's answers as if they were another group's."""
    import pandas as pd

    frame = pd.read_parquet(party.data)
    frame["group"] = group
    frame.to_csv(file, index=False)


def _first_match(daemon: Daemon, pattern: str) -> str:
    def matching() -> list[str]:
        lines = COLOURS.sub("", daemon.output).splitlines()
        if connected := [line for line in lines if "SuperNode ID: " in line]:
            raise AssertionError(f"it was let in: {connected[0]}")
        return [line for line in lines if re.search(pattern, line)]

    wait_until(lambda: bool(matching()), REFUSAL_SECONDS, lambda: daemon.output[-3000:])
    return matching()[0].strip()


def _sentence(text: str, word: str) -> str:
    lines = [line.strip() for line in COLOURS.sub("", text).splitlines() if word in line]
    if not lines:
        raise AssertionError(f"nothing about {word!r} in:\n{text[-3000:]}")
    return lines[0]
