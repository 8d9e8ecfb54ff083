"""What a report is made of: plain data that the template lays out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

Row = Mapping[str, Any]
"""One row of a figure's data."""


@dataclass(frozen=True)
class Cell:
    """A table's cell.

    Attributes:
        text: what it says.
        detail: a second, smaller line, such as an interval.
        best: it is the best of its column.
        colour: of the mark beside the text, the one that figures use.
    """

    text: str
    detail: str = ""
    best: bool = False
    colour: str = ""


@dataclass(frozen=True)
class Column:
    """A table's column: heading, a second line below it, and whether it holds numbers."""

    heading: str
    hint: str = ""
    numeric: bool = True


@dataclass(frozen=True)
class Table:
    """A table whose first column names the rows."""

    kind: ClassVar[str] = "table"
    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    note: str = ""


@dataclass(frozen=True)
class Control:
    """A choice of the reader: it and the figure's other controls select the view."""

    label: str
    options: Sequence[str]


@dataclass(frozen=True)
class View:
    """One state of a figure.

    Attributes:
        choice: the option of each of the figure's controls.
        title: what the figure shows in this state.
        spec: Vega-Lite, with its data by name.
    """

    choice: tuple[str, ...]
    title: str
    spec: Mapping[str, Any]


@dataclass(frozen=True)
class Figure:
    """A figure with its data; the first view is shown at first.

    Attributes:
        name: of its files, and its id in the page.
        description: what is drawn and how to read it: the text alternative.
        views: at least one; one for each combination of the controls' options.
        datasets: name to rows, for all views.
        table: the same data for those who cannot see the figure.
        controls: none when there is one view.
        narrow: it is better as a square than as wide as the page.
    """

    kind: ClassVar[str] = "figure"
    name: str
    description: str
    views: Sequence[View]
    datasets: Mapping[str, Sequence[Row]]
    table: Table
    controls: Sequence[Control] = ()
    narrow: bool = False


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    kind: ClassVar[str] = "text"
    text: str


@dataclass(frozen=True)
class Notice:
    """Something that the reader must not miss."""

    kind: ClassVar[str] = "notice"
    text: str
    items: Sequence[str] = ()


@dataclass(frozen=True)
class Code:
    """Something to copy: a command or a reference."""

    kind: ClassVar[str] = "code"
    caption: str
    text: str


@dataclass(frozen=True)
class Folded:
    """Blocks that are shown on demand."""

    kind: ClassVar[str] = "folded"
    summary: str
    blocks: Sequence["Block"]


@dataclass(frozen=True)
class Definitions:
    """Words and what they mean."""

    kind: ClassVar[str] = "definitions"
    entries: Mapping[str, str]


@dataclass(frozen=True)
class Claim:
    """A claim of the paper beside what was measured."""

    claim: str
    verdict: str
    facts: Mapping[str, str]
    explanation: str


@dataclass(frozen=True)
class Claims:
    """Verdicts on claims."""

    kind: ClassVar[str] = "claims"
    claims: Sequence[Claim]


@dataclass(frozen=True)
class Explorer:
    """Questions with true and predicted shares, for a group that the reader picks."""

    kind: ClassVar[str] = "explorer"
    groups: Sequence[Mapping[str, Any]]
    note: str = ""


Block = Table | Figure | Text | Notice | Code | Folded | Definitions | Claims | Explorer


@dataclass(frozen=True)
class Section:
    """A part of the report with a heading; `name` is its id."""

    name: str
    heading: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class KeyFigure:
    """A number at the top of the report."""

    label: str
    value: str
    detail: str = ""


@dataclass(frozen=True)
class Report:
    """A whole report."""

    subject: str
    title: str
    summary: str
    sections: Sequence[Section]
    key_figures: Sequence[KeyFigure] = ()
    notices: Sequence[Notice] = field(default_factory=tuple)

    def figures(self) -> list[Figure]:
        """Return all figures, in order."""
        return [f for section in self.sections for f in _figures(section.blocks)]

    def explorers(self) -> list[Explorer]:
        """Return the question explorers: one or none."""
        return [b for s in self.sections for b in s.blocks if isinstance(b, Explorer)]


def _figures(blocks: Sequence[Block]) -> list[Figure]:
    found: list[Figure] = []
    for block in blocks:
        if isinstance(block, Figure):
            found.append(block)
        elif isinstance(block, Folded):
            found.extend(_figures(block.blocks))
    return found
