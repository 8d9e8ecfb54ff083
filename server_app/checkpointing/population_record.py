"""Who takes part in a run, written down so that a resumed run has the same clients."""

from dataclasses import replace
from typing import Any

import numpy as np

from server_app.announcing import announce
from server_app.nodes.discovery import NOWHERE, Client, Population
from task.errors import EncoderError, PopulationError
from task.features import FeatureSums
from task.population import PopulationAnswers

_SHOWN = 12


def population_record(population: Population) -> dict[str, Any]:
    """Return the clients and what they disclosed, as plain data."""
    sums = population.feature_sums
    return {
        "clients": [
            {"id": client.id, "name": client.name, "group": client.group, "role": client.role}
            for client in population.clients
        ],
        "fingerprint": population.fingerprint,
        "feature_sums": {"count": sums.count, "total": sums.total, "squares": sums.squares},
        "question_keys": dict(population.question_keys),
        "answers": population.answers.to_arrays() if population.answers else None,
    }


def as_recorded(
    population: Population, record: dict[str, Any], *, all_there: bool = True
) -> Population:
    """Return the clients of a run, with the ids they have in it, where they are connected now.

    Sums over questions and answers are those that the run began with. Who was not there then takes
    no part, and is named.

    Args:
        population: who is there.
        record: from `population_record`.
        all_there: whether every client of the run must be, with the data that it had. Otherwise
            one that is not is named, and is not connected until it comes.

    Raises:
        PopulationError: a client of the run is missing, or has another role or other questions.
        EncoderError: the clients use another encoder than when the run began.
    """
    if population.fingerprint != record["fingerprint"]:
        raise EncoderError(
            f"run.resume: the clients use the encoder {population.fingerprint}, expected "
            f"{record['fingerprint']} as when the run began."
        )
    found = {client.name: client for client in population.clients}
    known = {entry["name"]: entry for entry in record["clients"]}
    if newcomers := sorted(found.keys() - known.keys()):
        text = f"Not there when the run began, takes no part: {_listed(newcomers)}"
        announce("newcomers", text, {"groups": newcomers}, "warning")
    for what, names in _faults(population, record).items():
        if all_there:
            _require_none(what, names)
        elif names:
            text = f"The run goes on without {_listed(names)}, until it comes as it was: it {what}"
            announce("absent", text, {"clients": names, "reason": what}, "warning")
        for name in names:
            found.pop(name, None)
    here = {name: client.node_id for name, client in found.items()}
    answers = record["answers"]
    return replace(
        population,
        clients=tuple(
            Client(node_id=here.get(name, NOWHERE), **entry) for name, entry in known.items()
        ),
        feature_sums=FeatureSums(**record["feature_sums"]),
        question_keys=record["question_keys"],
        answers=PopulationAnswers.from_arrays(answers) if answers else None,
    )


def _faults(population: Population, record: dict[str, Any]) -> dict[str, list[str]]:
    """Return which of a run's clients are not as they were, by what it is."""
    found = {client.name: client for client in population.clients}
    known = {entry["name"]: entry for entry in record["clients"]}
    there = sorted(known.keys() & found.keys())
    of_role = [name for name in there if found[name].role != known[name]["role"]]
    keys_before, keys_now = record["question_keys"], population.question_keys
    return {
        "is not connected": sorted(known.keys() - found.keys()),
        "has another role than when the run began": of_role,
        "has other questions than when the run began": [
            name
            for name in there
            if not np.array_equal(keys_before[known[name]["group"]], keys_now[found[name].group])
        ],
    }


def _require_none(what: str, named: list[str]) -> None:
    if named:
        raise PopulationError(
            f"run.resume: {_listed(named)} {what}. Expected the same clients with the same data: "
            "connect them as they were, or start the run anew."
        )


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
