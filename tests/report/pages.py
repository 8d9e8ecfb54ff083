"""A report as tests see it: its texts, tables, attributes and data."""

import json
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

VOID = {"meta", "input", "br", "img", "link", "hr"}


@dataclass
class Page(HTMLParser):
    """Parses a page; figures and tables by name."""

    source: str
    tags: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    tables: dict[str, list[list[str]]] = field(default_factory=dict)
    texts: list[str] = field(default_factory=list)
    scripts: list[str] = field(default_factory=list)
    styles: list[str] = field(default_factory=list)
    open_tags: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._rows: list[list[str]] = []
        self._caption = ""
        self.feed(self.source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open_tags.append(tag)
        if tag == "table":
            self._rows, self._caption = [], ""
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th"):
            self._rows[-1].append("")
        elif tag in ("script", "style"):
            (self.scripts if tag == "script" else self.styles).append("")

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID and tag in self.open_tags:
            assert self.open_tags.pop() == tag, f"</{tag}> closes another element"
        if tag == "table":
            self.tables[self._caption.strip()] = self._rows

    def handle_data(self, data: str) -> None:
        inside = self.open_tags[-1] if self.open_tags else ""
        if inside == "script":
            self.scripts[-1] += data
        elif inside == "style":
            self.styles[-1] += data
        else:
            self.texts.append(data)
            if "caption" in self.open_tags:
                self._caption += data
            elif "td" in self.open_tags or ("th" in self.open_tags and self._rows):
                self._rows[-1][-1] += data

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    @property
    def data(self) -> dict[str, Any]:
        """What the page's script draws."""
        content: dict[str, Any] = json.loads(self.scripts[0])
        return content

    def attributes(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def row(self, caption: str, name: str) -> dict[str, str]:
        """A table's row as heading to cell."""
        rows = self.tables[next(c for c in self.tables if c.startswith(caption))]
        found = next(row for row in rows[1:] if row[0].strip() == name)
        return dict(zip((heading.strip() for heading in rows[0]), found, strict=True))


def read_page(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))
