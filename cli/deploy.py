"""`pluralllm deploy`: a federation of machines of its own, one command for each that takes part."""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from cli.deploy_status import show_status
from cli.settings import Settings
from deployment.coordinator import Coordinator, parse_address
from deployment.hand_over import hand_over, party_folder
from deployment.node_keys import PUBLIC_KEY, PublicKey, make_node_key, read_public_key
from deployment.parties import Party, parse_party
from deployment.registration import cut_off, register_parties, registering, unregister
from deployment.superlink import probe_superlink, run_superlink
from deployment.supernode import run_supernode
from deployment.supernode_config import check_supernode, read_supernode_config
from task.errors import DeploymentError

deploy = typer.Typer(
    no_args_is_help=True,
    help="Run a federation on machines of its own: SuperLink, SuperNodes, keys and certificates.",
)

Folder = Annotated[Path, typer.Argument(help="The deployment's folder.", metavar="FOLDER")]
Days = Annotated[
    int, typer.Option(help="Days for which the SuperLink's certificate is valid.", min=1)
]
Names = Annotated[
    list[str] | None,
    typer.Option(help="Further host name or IP address of the SuperLink. Repeatable."),
]
Insecure = Annotated[
    bool, typer.Option(help="No TLS, no authentication. For tests on one machine only.")
]


@deploy.command()
def init(
    folder: Folder,
    address: Annotated[
        str, typer.Option(help="HOST:PORT by which the parties reach the SuperLink.")
    ],
    party: Annotated[
        list[str] | None,
        typer.Option(help="NAME=GROUP (or NAME=GROUP|GROUP) of a party that trains. Repeatable."),
    ] = None,
    held_out: Annotated[
        list[str] | None,
        typer.Option(help="NAME=GROUP of a party that is evaluated and never trains. Repeatable."),
    ] = None,
    name: Names = None,
    listen: Annotated[
        str, typer.Option(help="Address of this machine to listen on. Empty: all.")
    ] = "",
    days: Days = 365,
    make_keys: Annotated[
        bool,
        typer.Option(help="Make the parties' keys here, instead of each party its own."),
    ] = False,
) -> None:
    """Make a deployment's folder: certificates, the coordinator's files, a folder per party."""
    parties = [parse_party(text, "train") for text in party or ()]
    parties += [parse_party(text, "held-out") for text in held_out or ()]
    where = parse_address(address, name or (), listen)
    coordinator = Coordinator.create(folder, where, parties, days)
    for each in parties:
        _hand_over(coordinator, each, make_key=make_keys)
    shown = os.path.relpath(coordinator.folder)
    print(
        f"Made {shown}. Keep {shown}/coordinator to yourself, ca.key best on another medium: only "
        "`renew` needs it."
    )
    for each in parties:
        print(f"{each.name}: hand over {os.path.relpath(party_folder(coordinator, each.name))}")
    if parties and not make_keys:
        print(
            f"Each party makes its key (`pluralllm deploy key .` there) and sends {PUBLIC_KEY}: "
            f"`pluralllm deploy add {shown} NAME {PUBLIC_KEY}`."
        )
    print(f"Then: pluralllm deploy superlink {shown}")


@deploy.command()
def key(folder: Folder = Path()) -> None:
    """For a party: make this machine's key pair, and say what to send to the coordinator."""
    public = make_node_key(folder)
    print(
        f"Send {os.path.relpath(folder / PUBLIC_KEY)} to the coordinator; node.key stays here. Its "
        f"fingerprint, to compare by telephone: {public.fingerprint}"
    )


@deploy.command()
def add(
    folder: Folder,
    name: Annotated[str, typer.Argument(help="The party's name.")],
    public_key: Annotated[
        Path | None, typer.Argument(help="The node.pub that the party has sent.")
    ] = None,
    group: Annotated[
        str, typer.Option(help="Groups of a party that is new, separated by `|`.")
    ] = "",
    held_out: Annotated[
        bool, typer.Option(help="The new party is evaluated and never trains.")
    ] = False,
) -> None:
    """Take in a party's public key, or a new party (with --group).

    The party's former key, if it had one, is refused from then on.
    """
    coordinator = Coordinator.open(folder)
    sent = read_public_key(public_key) if public_key else None
    if group:
        new = parse_party(f"{name}={group}", "held-out" if held_out else "train")
        with coordinator.changing_parties() as parties:
            if name in parties:
                raise DeploymentError(
                    f"{name} is a party already. Leave --group away to take in its key."
                )
            _require_unused(parties, name, sent)
            parties[name] = new
    if sent:
        with registering(coordinator):
            _take_key(coordinator, name, sent)
    else:
        _party(coordinator, name)
    if group and not party_folder(coordinator, name).exists():
        hand_over(coordinator, _party(coordinator, name))
        print(f"{name}: hand over {os.path.relpath(party_folder(coordinator, name))}")
    if sent:
        print(f"{name}: key {sent.fingerprint}")
        _register_now(coordinator)


@deploy.command()
def remove(folder: Folder, name: Annotated[str, typer.Argument(help="The party's name.")]) -> None:
    """Cut a party off: its key is refused from now on, for good. Needs the running SuperLink."""
    unregister(Coordinator.open(folder), name)
    print(f"{name} is removed. It may come back with a new key (`deploy add --group`).")


@deploy.command()
def renew(
    folder: Folder,
    days: Days = 365,
    ca_key: Annotated[Path | None, typer.Option(help="ca.key, where it is kept elsewhere.")] = None,
    name: Names = None,
) -> None:
    """Make the SuperLink a new key and certificate; parties notice nothing."""
    Coordinator.open(folder).renew(days, ca_key, name or ())
    print(f"Renewed for {days} days. Restart `pluralllm deploy superlink` to use it.")


@deploy.command()
def superlink(folder: Folder, insecure: Insecure = False) -> None:
    """For the coordinator: run the SuperLink, until stopped, and register the parties' nodes."""
    run_superlink(Coordinator.open(folder), insecure=insecure)


@deploy.command()
def supernode(
    path: Annotated[
        Path, typer.Argument(help="supernode.toml, or its folder.", metavar="FOLDER")
    ] = Path(),
    insecure: Insecure = False,
    port: Annotated[
        int, typer.Option(help="Port for the node's own processes, on loopback. 0: a free one.")
    ] = 0,
) -> None:
    """For a party: check this machine's files, then take part until stopped."""
    config = read_supernode_config(path)
    check_supernode(config, insecure=insecure)
    run_supernode(config, insecure=insecure, port=port)


@deploy.command()
def run(
    folder: Folder,
    settings: Settings = None,
    detach: Annotated[bool, typer.Option(help="Start the run and return.")] = False,
) -> None:
    """For the coordinator: train on the parties' nodes. The run outlives this command."""
    from cli.deploy_run import run_on_nodes  # brings PyTorch: see `cli.main`

    run_on_nodes(folder, settings, detach=detach)


@deploy.command()
def status(
    folder: Folder,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """For the coordinator: SuperLink, nodes, and how the last runs stand."""
    show_status(folder, as_json=as_json)


def _hand_over(coordinator: Coordinator, party: Party, *, make_key: bool) -> None:
    public = hand_over(coordinator, party, make_key=make_key)
    if public:
        with coordinator.changing_parties() as parties:
            parties[party.name] = replace(parties[party.name], public_key=public.text)


def _register_now(coordinator: Coordinator) -> None:
    if not probe_superlink(coordinator).up:
        print("The SuperLink is not running; it registers the node when it starts.")
        return
    for line in register_parties(coordinator):
        print(line)


def _take_key(coordinator: Coordinator, name: str, sent: PublicKey) -> None:
    former = _party(coordinator, name)
    if sent.text == former.public_key:
        return
    _require_unused({party.name: party for party in coordinator.parties()}, name, sent)
    if former.node_id:
        cut_off(coordinator, former.node_id)
    with coordinator.changing_parties() as parties:
        parties[name] = replace(parties[name], public_key=sent.text, node_id="")


def _party(coordinator: Coordinator, name: str) -> Party:
    parties = {party.name: party for party in coordinator.parties()}
    if name not in parties:
        raise DeploymentError(
            f"There is no party {name!r}. Expected one of {', '.join(parties) or '(none)'}, or "
            "--group for a new one."
        )
    return parties[name]


def _require_unused(parties: Mapping[str, Party], name: str, sent: PublicKey | None) -> None:
    for other in parties.values():
        if sent and other.name != name and other.public_key == sent.text:
            raise DeploymentError(f"This key is {other.name}'s. Expected one that is {name}'s own.")
