"""Reads users' YAML files: only plain data, in limited time and memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from rbsf.system.text import one_line, read_text

MOST_BYTES = 200_000  # the parser needs some seconds for this size


class _Loader(yaml.SafeLoader):
    """A loader that refuses aliases: with them a small file could expand to fill all memory."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            alias = self.peek_event()
            raise yaml.MarkedYAMLError(
                problem="an alias (*) is not read; write out what it stands for",
                problem_mark=alias.start_mark,
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        mapping = super().construct_mapping(node, deep)
        if len(mapping) < len(node.value):
            raise yaml.MarkedYAMLError(
                problem="a key is given twice", problem_mark=self._repeated(node)
            )
        return mapping

    def _repeated(self, node: yaml.MappingNode) -> yaml.Mark | None:
        """The place of the first key that is a repetition."""
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                return key_node.start_mark
            seen.add(key)
        return None


def read_yaml_file(path: str | Path) -> Any:
    """The content of a YAML file; None for an empty file.

    Raises FileNotFoundError, and ValueError in one line that names the file and, if known, the
    line.
    """
    path = Path(path)
    if path.is_file() and path.stat().st_size > MOST_BYTES:
        raise ValueError(f"{path}: {path.stat().st_size:,} bytes; {MOST_BYTES:,} at most are read")
    text = read_text(path)
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        where = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise ValueError(f"{path}: not YAML ({where}{error.problem})") from None
    except RecursionError:
        raise ValueError(f"{path}: not YAML (nested too deeply)") from None
    except (
        Exception
    ) as error:  # a value that does not fit its tag, as in `!!int x`, may raise any error
        reason = one_line(f"{type(error).__name__}: {error}", 120)
        raise ValueError(f"{path}: not YAML ({reason})") from None
