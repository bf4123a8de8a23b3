"""Tables that are laid out as Markdown here and as HTML by `macros.html.j2`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from html import escape

NOTHING = "–"  # a score that there is not


@dataclass(frozen=True)
class Cell:
    """A cell: what it shows, what it is sorted by (None: it has no number), and what goes with it."""

    text: str
    value: float | None = None
    best: bool = False
    tags: tuple[str, ...] = ()
    detail: str = ""
    color: str = ""
    partial: bool = (
        False  # a mean over fewer sequences than others in its column have: it is no rival
    )


@dataclass(frozen=True)
class Table:
    """Rows of cells, the first of each its heading, under `columns`; `groups` are (heading,
    number of columns).

    `sort` is the column by which the rows stand in rising order; the reader can choose another.
    """

    caption: str
    columns: list[str]
    rows: list[list[Cell]]
    groups: tuple[tuple[str, int], ...] = ()
    sort: int | None = None

    def numeric(self, column: int) -> bool:
        """Whether a column holds numbers, or would if there were any."""
        cells = [row[column] for row in self.rows]
        return any(cell.value is not None for cell in cells) or {cell.text for cell in cells} == {
            NOTHING
        }

    def __str__(self) -> str:
        spread = [name for name, width in self.groups for _ in range(width)] or [""] * len(
            self.columns
        )
        heads = [
            f"{group}: {name}" if group else name
            for group, name in zip(spread, self.columns, strict=True)
        ]
        rule = ["---:" if self.numeric(i) else "---" for i in range(len(heads))]
        body = [[_markdown_cell(cell) for cell in row] for row in self.rows]
        return "\n".join(
            f"| {' | '.join(row)} |" for row in [list(map(markdown_text, heads)), rule, *body]
        )


def _markdown_cell(cell: Cell) -> str:
    text = f"**{markdown_text(cell.text)}**" if cell.best else markdown_text(cell.text)
    tags = f" ({', '.join(map(markdown_text, cell.tags))})" if cell.tags else ""
    return text + tags + (f": {markdown_text(cell.detail)}" if cell.detail else "")


def markdown_text(text: str) -> str:
    """Escape a text so that Markdown shows it as it stands, on one line."""
    return re.sub(r"([\\`*|\[\]]|\b_|_\b)", r"\\\1", escape(" ".join(text.split()), quote=False))


def number(
    value: float | None, form: str = ".3f", spread: float | None = None, partial: bool = False
) -> Cell:
    """A cell for a number, with its spread over runs where there is one; `partial`: see `Cell`."""
    if value is None:
        return Cell(NOTHING)
    text = f"{value:{form}}" + (f" ± {spread:{form}}" if spread is not None else "")
    return Cell(text, value, partial=partial)


def mark_best(cells: Iterable[Cell]) -> list[Cell]:
    """Mark the highest scores, equal ones to the three digits shown; a lone score has no rival, a
    partial is none.
    """
    cells = list(cells)
    values = [
        None if cell.partial or cell.value is None else round(cell.value, 3) for cell in cells
    ]
    rivals = [value for value in values if value is not None]
    if len(rivals) < 2:
        return cells
    return [
        replace(cell, best=value == max(rivals)) for cell, value in zip(cells, values, strict=True)
    ]


def mark_best_rows(rows: Sequence[list[Cell]], columns: Iterable[int]) -> list[list[Cell]]:
    """Mark the highest scores of each of the `columns`."""
    rows = [list(row) for row in rows]
    for column in columns:
        for row, cell in zip(rows, mark_best(row[column] for row in rows), strict=True):
            row[column] = cell
    return rows
