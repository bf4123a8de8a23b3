"""The help of every program: flags in groups, defaults, and an example that can be typed."""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from importlib import import_module
from typing import Any, NoReturn

import pytest

from rbsf.system.flags import FIRST, WIDTH
from rbsf.system.program import positive_int, process_count, seed_number, thread_count
from rbsf.tools.command import COMMANDS

MOST_FIRST = 12
PROGRAMS = {name: module for name, (module, _) in COMMANDS.items()}


class Parsed(Exception):
    """A program has come to where it parses its command line."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self.parser = parser


def parser_of(module: str, monkeypatch: pytest.MonkeyPatch, *words: str) -> argparse.ArgumentParser:
    def stop(parser: argparse.ArgumentParser, *_: Any, **__: Any) -> NoReturn:
        raise Parsed(parser)

    folder, name = module.split(".")[1:]
    with monkeypatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", stop)
        patch.setattr(sys, "argv", [f"{folder}/{name}.py", *words])
        with pytest.raises(Parsed) as stopped:
            import_module(module).main()
    return stopped.value.parser


def examples_of(parser: argparse.ArgumentParser) -> list[list[str]]:
    head, *lines = (parser.epilog or "").splitlines()
    assert head in ("example:", "examples:")
    return [shlex.split(line) for line in lines]


@pytest.fixture(params=[*PROGRAMS, "train --model rbsf2"])
def parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("COLUMNS", "400")
    name, *words = request.param.split()
    return parser_of(PROGRAMS[name], monkeypatch, *words)


def test_every_flag_is_explained(parser: argparse.ArgumentParser) -> None:
    formatter = parser.formatter_class("")
    for action in parser._actions:
        where = "/".join(action.option_strings) or action.dest
        assert action.help, where
        assert action.help[0].isupper(), where
        assert not action.help.endswith("."), where
        takes_value = action.option_strings and action.nargs != 0
        shown = formatter._get_help_string(action)
        assert "default:" in shown or "(required)" in shown or not takes_value, where
        assert shown.count("default:") <= 1, where
    assert max(map(len, parser.format_help().splitlines())) <= WIDTH


def test_the_first_flags_are_few(parser: argparse.ArgumentParser) -> None:
    groups = [group for group in parser._action_groups if group._group_actions]
    assert groups[0].title == FIRST
    assert len(groups[0]._group_actions) <= MOST_FIRST
    assert all(group.title for group in groups)
    assert len({group.title for group in groups}) == len(groups)


def test_examples_can_be_typed(parser: argparse.ArgumentParser) -> None:
    for program, path, *words in examples_of(parser):
        assert program == "python"
        assert path.endswith(".py")
        if words[:2] == ["--model", "rbsf2"]:  # tools/train_rbsf.py takes this itself
            words = words[2:]
        parser.parse_args(words)


def test_paths_are_called_paths(parser: argparse.ArgumentParser) -> None:
    for action in parser._actions:
        assert not re.search(r"FILE\b(?!\.)|DIR|FOLDER", str(action.metavar or "")), action.dest


def test_an_installed_program_is_called_by_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    from rbsf.system.flags import make_parser

    monkeypatch.setattr(sys, "argv", ["rbsf track", "--help"])
    parser, first = make_parser("What it does.", "--out a", takes="NAME")
    first.add_argument("--out", metavar="PATH", help="Write here")
    text = parser.format_help()
    assert text.startswith("usage: rbsf track NAME [flags]\n")
    assert "Write here (default: none)" in text
    assert text.endswith("example:\n  rbsf track --out a\n")


def test_an_empty_word_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    from rbsf.tools.recipes.classifier_config import read_config
    from rbsf.tools.track import parse_args

    with pytest.raises(SystemExit):
        parse_args(["--video", "", "--init", "1,1,9,9"])
    assert "an argument after --video is empty" in capsys.readouterr().err
    assert read_config(["--dataset", "mnist", "--model", "lenet", "--stem", ""]).stem == ""


@pytest.mark.parametrize(
    ("read", "good", "bad"),
    [
        (positive_int, "1", ("0", "-1", "1.5", "", "2147483648", "9" * 30)),
        (seed_number, "0", ("-1", "9" * 30)),
        (thread_count, "1024", ("0", "1025")),
        (process_count, "32", ("0", "100000")),
    ],
)
def test_numbers_of_flags_have_bounds(read: Any, good: str, bad: tuple[str, ...]) -> None:
    assert read(good) == int(good)
    for text in bad:
        with pytest.raises(argparse.ArgumentTypeError):
            read(text)
