"""What the methods of a comparison promise about privacy."""

from collections.abc import Mapping
from typing import Any

from report.blocks import Block, Cell, Column, Definitions, Notice, Section, Table, Text
from report.methods import Methods
from report.privacy import UNITS, exact_notice, privacy_section, shown_epsilon


def comparison_privacy(results: Mapping[str, Any], methods: Methods) -> Section | None:
    """Return the privacy section of a comparison that has such settings."""
    settings = results.get("settings") or {}
    section = privacy_section(settings)
    if not section or settings.get("privacy.unit") not in UNITS:
        return section
    blocks: list[Block] = []
    if notice := exact_notice(settings):
        blocks.append(notice)
    blocks.append(Text(str(results.get("privacy_note") or "")))
    found = results.get("privacy") or {}
    if not found:
        blocks.append(Text("No federated cell has finished that could tell its epsilon."))
    else:
        blocks.append(_table(found, methods))
        first = next(iter(found.values()))
        blocks.append(Definitions({"Unit": UNITS.get(first["unit"], first["unit"])}))
        if excludes := list(dict.fromkeys(text for e in found.values() for text in e["excludes"])):
            blocks.append(Notice("The epsilons do not cover:", excludes))
    return Section(section.name, section.heading, [*blocks, *section.blocks])


def _table(found: Mapping[str, Mapping[str, Any]], methods: Methods) -> Table:
    keys = {"relation": "Neighbours", "sampling": "Sampling", "accountant": "Accountant"}
    return Table(
        "Epsilon of one cell, the largest of each method",
        [
            Column("Method", numeric=False),
            Column("Epsilon"),
            Column("Delta"),
            Column("Cells"),
            *(Column(heading, numeric=False) for heading in keys.values()),
        ],
        [
            [
                Cell(methods.label(name)),
                Cell(shown_epsilon(entry["epsilon"])),
                Cell(f"{entry['delta']:.3g}"),
                Cell(str(len(entry.get("epsilons") or [None]))),
                *(Cell(str(entry[key])) for key in keys),
            ]
            for name, entry in found.items()
        ],
    )
