"""Tables, written as Markdown here and as HTML by `macros.html.j2`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from html import escape
from statistics import mean, stdev

from rbsf.system.text import one_line

NOTHING = "–"  # stands for a missing score


@dataclass(frozen=True)
class Cell:
    """A cell of a table."""

    text: str
    value: float | None = None  # number by which a column is sorted
    best: bool = False
    tags: tuple[str, ...] = ()
    detail: str = ""
    color: str = ""
    partial: bool = False  # a mean over fewer sequences than others have: never the best


@dataclass(frozen=True)
class Table:
    """Rows of cells under `columns`; the first cell of a row is its heading.

    `groups`: headings above the columns, each with its number of columns. `sort`: the column by
    which the rows are sorted, ascending; the reader can choose another.
    """

    caption: str
    columns: list[str]
    rows: list[list[Cell]]
    groups: tuple[tuple[str, int], ...] = ()
    sort: int | None = None

    def numeric(self, column: int) -> bool:
        """Whether a column holds numbers, or only missing ones."""
        cells = [row[column] for row in self.rows]
        if any(cell.value is not None for cell in cells):
            return True
        return {cell.text for cell in cells} == {NOTHING}

    def __str__(self) -> str:
        heads = [markdown_text(head) for head in self._heads()]
        rule = ["---:" if self.numeric(column) else "---" for column in range(len(heads))]
        rows = [[_markdown_cell(cell) for cell in row] for row in self.rows]
        return "\n".join(f"| {' | '.join(row)} |" for row in [heads, rule, *rows])

    def _heads(self) -> list[str]:
        """The columns' names, each after the name of its group."""
        if not self.groups:
            return self.columns
        groups: list[str] = []
        for group, width in self.groups:
            groups += [group] * width
        pairs = zip(groups, self.columns, strict=True)
        return [f"{group}: {name}" if group else name for group, name in pairs]


def _markdown_cell(cell: Cell) -> str:
    text = markdown_text(cell.text)
    if cell.best:
        text = f"**{text}**"
    if cell.tags:
        text += f" ({', '.join(map(markdown_text, cell.tags))})"
    if cell.detail:
        text += f": {markdown_text(cell.detail)}"
    return text


def markdown_text(text: str) -> str:
    """Escape a text so that Markdown shows it as it stands, on one line."""
    return re.sub(r"([\\`*|\[\]]|\b_|_\b)", r"\\\1", escape(one_line(text), quote=False))


def number(
    value: float | None, form: str = ".3f", spread: float | None = None, partial: bool = False
) -> Cell:
    """A cell for a number, with its spread over runs if there is one; `partial`: see `Cell`."""
    if value is None:
        return Cell(NOTHING)
    text = f"{value:{form}}"
    if spread is not None:
        text += f" ± {spread:{form.removeprefix('+')}}"
    return Cell(text, value, partial=partial)


def average(values: Sequence[float], form: str = ".3f") -> Cell:
    """A cell for the mean of numbers, with their standard deviation if there are several."""
    if not values:
        return number(None)
    return number(mean(values), form, stdev(values) if len(values) > 1 else None)


def mark_best(cells: Iterable[Cell]) -> list[Cell]:
    """Mark the highest scores; scores are equal if the three digits shown are.

    Partial scores are not compared. Nothing is marked if fewer than two scores are compared.
    """
    cells = list(cells)
    values = [_compared(cell) for cell in cells]
    rivals = [value for value in values if value is not None]
    if len(rivals) < 2:
        return cells
    highest = max(rivals)
    return [replace(cell, best=v == highest) for cell, v in zip(cells, values, strict=True)]


def _compared(cell: Cell) -> float | None:
    """The score of a cell as it is compared with others; None if it is not compared."""
    if cell.value is None or cell.partial:
        return None
    return round(cell.value, 3)


def mark_best_rows(rows: Sequence[list[Cell]], columns: Iterable[int]) -> list[list[Cell]]:
    """Mark the highest scores of each of the `columns`."""
    rows = [list(row) for row in rows]
    for column in columns:
        marked = mark_best(row[column] for row in rows)
        for row, cell in zip(rows, marked, strict=True):
            row[column] = cell
    return rows
