"""Argument parsers of the programs, with short help texts. Imports nothing slow.

    parser, first = make_parser(__doc__, "--video in.mp4 --init 120,80,40,60")
    first.add_argument("--video", required=True, metavar="PATH", help="Track in this video")
    others = parser.add_argument_group("files that are written")

The flags that most users need are in the first group, all others in named groups. The help of a
flag is a sentence without a full stop. "required" or the default is added automatically.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Flags = argparse._ActionsContainer  # a parser, or a group of its flags

WIDTH = 100  # most columns of the help
FIRST = "flags to begin with"


class Help(argparse.RawDescriptionHelpFormatter):
    """Help of at most WIDTH columns that says which flags are required and shows the defaults."""

    def __init__(self, prog: str) -> None:
        width = min(shutil.get_terminal_size().columns, WIDTH)
        super().__init__(prog, max_help_position=26, width=width)

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        if action.required and action.option_strings:
            return f"{text} (required)"
        takes_value = action.nargs != 0 and bool(action.option_strings)
        if "default:" in text or not takes_value:
            return text
        shown = "none" if action.default in (None, []) else "%(default)s"
        return f"{text} (default: {shown})"


class _Parser(argparse.ArgumentParser):
    """A parser that refuses empty words, which shell variables leave that are not set."""

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """See `argparse`; exits for an empty word, except after a flag of `allow_empty`."""
        words = sys.argv[1:] if args is None else list(args)
        for before, word in zip(["", *words], words, strict=False):
            if not word and not self._may_be_empty(before):
                after = f" after {before}" if before else ""
                self.error(f"an argument{after} is empty; is a shell variable not set?")
        return super().parse_known_args(words, namespace)

    def _may_be_empty(self, flag: str) -> bool:
        return hasattr(self._option_string_actions.get(flag), "may_be_empty")


def allow_empty(action: argparse.Action) -> None:
    """Let the value of a flag be an empty word."""
    action.may_be_empty = True  # type: ignore[attr-defined]


def make_parser(
    description: str | None, example: str, takes: str = "", allow_abbrev: bool = True
) -> tuple[argparse.ArgumentParser, Flags]:
    """A parser, and its group of flags to begin with, which contains --help.

    `example`: flags of a command that works as written. Several commands go on several lines; an
    empty string means no example.
    `takes`: the usage text for arguments other than flags, such as `RUN ...`.
    """
    program = program_name()
    parser = _Parser(
        prog=program,
        usage=" ".join(["%(prog)s", *takes.split(), "[flags]"]),
        description=description,
        epilog=_examples(program, example.strip().splitlines()),
        formatter_class=Help,
        add_help=False,
        allow_abbrev=allow_abbrev,
    )
    first = parser.add_argument_group(FIRST)
    first.add_argument("-h", "--help", action="help", help="Show this help and end")
    return parser, first


def _examples(program: str, lines: list[str]) -> str | None:
    if not lines:
        return None
    title = "example" if len(lines) == 1 else "examples"
    return "\n".join([f"{title}:", *(f"  {program} {line.strip()}" for line in lines)])


def program_name() -> str:
    """The command that runs this program, such as `python tools/track.py` or `rbsf track`."""
    typed = sys.argv[0]
    return f"python {typed}" if typed.endswith(".py") else Path(typed).name
