"""A comparison's methods: their order, names, and how figures draw them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from report.theme import Style, styles


@dataclass(frozen=True)
class Methods:
    """The methods of a comparison, in the order of its tables.

    Attributes:
        entries: name to the contract's entry.
        style: name to how it is drawn.
        table: name to results per role.
    """

    entries: Mapping[str, Mapping[str, Any]]
    style: Mapping[str, Style]
    table: Mapping[str, Mapping[str, Any]]

    @classmethod
    def of(cls, results: Mapping[str, Any]) -> "Methods":
        """Take the methods of `results.json`."""
        entries = {entry["name"]: entry for entry in results.get("methods") or []}
        labels = [str(entry.get("label") or name) for name, entry in entries.items()]
        kinds = [str(entry.get("kind", "")) for entry in entries.values()]
        style = dict(zip(entries, styles(labels, kinds), strict=True))
        return cls(entries, style, results.get("table") or {})

    @property
    def names(self) -> list[str]:
        """All names."""
        return list(self.entries)

    def label(self, name: str) -> str:
        """Return a method's name for the reader; of an unknown one its own."""
        return self.style[name].label if name in self.style else name

    def kind(self, name: str) -> str:
        """Return `federated`, `centralized`, `local`, `probe` or `no-learning`."""
        return str(self.entries[name].get("kind", ""))

    def score(self, name: str, role: str) -> Mapping[str, Any] | None:
        """Return a method's alignment score for a role; None without one."""
        entry = ((self.table.get(name) or {}).get(role) or {}).get("alignment_score")
        return entry if entry and entry.get("mean") is not None else None

    def scored(self, role: str) -> list[str]:
        """Return the methods that have an alignment score for a role."""
        return [name for name in self.names if self.score(name, role) is not None]

    def headline(self, role: str) -> list[str]:
        """Return at most six methods that stand for the others.

        The first of each kind that learns, and those that do not learn.
        """
        scored, chosen, kinds = self.scored(role), [], set()
        for name in scored:
            kind = self.kind(name)
            if kind == "no-learning" or kind not in kinds:
                chosen.append(name)
            kinds.add(kind)
        return chosen[:6]

    def styles(self, names: Sequence[str]) -> list[Style]:
        """Return how some methods are drawn, in this order."""
        return [self.style[name] for name in names]
