"""What a party gets from the coordinator: no secret of anybody else."""

from pathlib import Path

import tomli_w

from deployment.coordinator import Coordinator
from deployment.files import make_folder, write_file
from deployment.node_keys import PRIVATE_KEY, PUBLIC_KEY, PublicKey, make_node_key
from deployment.parties import Party
from task.errors import DeploymentError

SUPERNODE_FILE = "supernode.toml"

SUPERNODE = """\
# This machine's part in a federation. Paths are relative to this file.
[superlink]
address = {address}
certificate-authority = "ca.crt"
private-key = {key}

[node]
data-path = ""                 # FILL IN: your survey (CSV, JSON Lines or Parquet, in long form)
group = {groups}
role = {role}
state-path = "state"           # what this machine keeps between rounds; only its own
# encoder = ""                 # where this machine has the encoder, if not at encoder.name
# privacy-unit = "member"      # refuse every run that protects another unit, or none ...
# max-epsilon = 8.0            # ... or promises less, or takes more over all runs together
# disclose-answers = true      # allow runs with predictor.population-weight, which send answers
# allow-scoring = true         # score responses that the server sends: enough would tell answers
"""

README = """\
1. pluralllm deploy key .           makes this machine's key; send the coordinator {public} only
2. fill in data-path in {file}, then: pluralllm check-data YOUR-FILE
3. pluralllm deploy supernode .     takes part until it is stopped; start it again at any time
"""

README_WITH_KEY = """\
1. {private} is this machine's secret: it must reach nobody else on its way here
2. fill in data-path in {file}, then: pluralllm check-data YOUR-FILE
3. pluralllm deploy supernode .     takes part until it is stopped; start it again at any time
"""


def party_folder(coordinator: Coordinator, name: str) -> Path:
    """Return where a party's hand-over folder is made."""
    return coordinator.folder / "parties" / name


def hand_over(
    coordinator: Coordinator, party: Party, *, make_key: bool = False
) -> PublicKey | None:
    """Make a party's folder, with its key in it if asked for; return the public one.

    A party that makes its own key (`pluralllm deploy key`) need not trust the way to it.

    Raises:
        DeploymentError: the folder exists.
    """
    folder = party_folder(coordinator, party.name)
    if folder.exists():
        raise DeploymentError(f"{folder} exists already: it is never overwritten.")
    make_folder(folder.parent)
    make_folder(folder)
    write_file(folder / "ca.crt", coordinator.authority.read_bytes())
    text = SUPERNODE.format(
        address=_value(coordinator.address.text),
        key=_value(PRIVATE_KEY),
        groups=_value("|".join(party.groups)),
        role=_value(party.role),
    )
    write_file(folder / SUPERNODE_FILE, text.encode())
    readme = README_WITH_KEY if make_key else README
    names = {"public": PUBLIC_KEY, "private": PRIVATE_KEY, "file": SUPERNODE_FILE}
    write_file(folder / "README.txt", readme.format(**names).encode())
    return make_node_key(folder) if make_key else None


def _value(text: str) -> str:
    """Return a text as a TOML value, quotes and all."""
    return tomli_w.dumps({"x": text}).removeprefix("x = ").rstrip("\n")
