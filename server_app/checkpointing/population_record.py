"""Who takes part in a run, written down so that a resumed run has the same clients."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from server_app.announcing import announce
from server_app.nodes.discovery import Population
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


def as_recorded(population: Population, record: dict[str, Any]) -> Population:
    """Return the clients of a run, with the ids they have in it, where they are connected now.

    Sums over questions and answers are those that the run began with. Who was not there then takes
    no part, and is named.

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
    _require_none("is not connected", known.keys() - found.keys())
    of_role = {name for name, entry in known.items() if found[name].role != entry["role"]}
    _require_none("has another role than when the run began", of_role)
    questions = record["question_keys"]
    changed = {
        group
        for group, keys in questions.items()
        if not np.array_equal(keys, population.question_keys[group])
    }
    _require_none("has other questions than when the run began", changed)
    if newcomers := sorted(found.keys() - known.keys()):
        text = f"Not there when the run began, takes no part: {_listed(newcomers)}"
        announce("newcomers", text, {"groups": newcomers}, "warning")
    answers = record["answers"]
    return replace(
        population,
        clients=tuple(replace(found[name], id=entry["id"]) for name, entry in known.items()),
        feature_sums=FeatureSums(**record["feature_sums"]),
        question_keys=questions,
        answers=PopulationAnswers.from_arrays(answers) if answers else None,
    )


def _require_none(what: str, groups: Iterable[str]) -> None:
    if named := sorted(groups):
        raise PopulationError(
            f"run.resume: {_listed(named)} {what}. Expected the same clients with the same data: "
            "connect them as they were, or start the run anew."
        )


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
