"""For the API reference: a field's comment, beside it or above it, becomes its docstring."""

from __future__ import annotations

import re
from typing import Any

from griffe import Attribute, Docstring, Extension

COMMENT = re.compile(r"(?:^|\s)# (.+)$")


class Comments(Extension):
    """An extension of griffe, named in mkdocs.yml; griffe reads the code for mkdocstrings."""

    def on_attribute_instance(self, *, attr: Attribute, **_: Any) -> None:
        """Give an attribute of a class its docstring."""
        if attr.docstring or not attr.lineno or not (attr.parent and attr.parent.is_class):
            return
        lines = attr.lines_collection[attr.filepath]
        found = COMMENT.findall(lines[attr.lineno - 1]) or comment_above(lines, attr.lineno - 1)
        if found:
            attr.docstring = Docstring(" ".join(found), parent=attr)


def comment_above(lines: list[str], number: int) -> list[str]:
    """The lines of the comment that ends just above line `number`, counted from 0."""
    first = number
    while lines[first - 1].strip().startswith("# "):
        first -= 1
    return [line.strip().removeprefix("# ") for line in lines[first:number]]
