"""Every command in the documents can be parsed, and every link leads somewhere.

test_readme.py also runs the commands of README.md and of the guides. Those of the other pages need
data or hours, so their programs only parse them here.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import pytest
import yaml
from conftest import ROOT
from documents import (
    DOCS,
    FENCED,
    GUIDES,
    PAGES,
    commands,
    heading_anchors,
    inline_commands,
    page_name,
    program_of,
    words_of,
)

from rbsf.tools import reproduce
from rbsf.tools.command import COMMANDS
from rbsf.tracker.anchor_free import AnchorFreeConfig

DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES]
FOR_ALL = [ROOT / "README.md", *GUIDES]
TOP = ("benchmarks", "configs", "docs", "eval", "tests", "tools", "weights")
TRAININGS = ("train_classifier", "train_rbsf")
OTHERS_FLAGS = {"--index-url", "--nproc-per-node", "--directory"}  # of programs that are not ours
MAX_WORDS = {"README.md": 900, "docs/RESULTS.md": 1_100}  # of pages for readers in a hurry
MAX_WORDS_OF_GUIDES = 700
MAX_FIGURE = 150_000  # bytes
OUTSIDE = re.compile(r'<(?:script|img|iframe|source)\b[^>]*\ssrc="(?:https?:)?//[^"]*"')


class Understood(Exception):
    """A program has parsed its command line."""


def all_commands(page: Path) -> list[str]:
    """The commands of a page that must be whole; in most sentences a program is only named."""
    text = page.read_text()
    inline = [] if page in FOR_ALL else inline_commands(text)
    return [*commands(text), *(line for line in inline if not line.startswith("rbsf"))]


PARSED = [
    (page_name(page), command)
    for page in (ROOT / "README.md", *PAGES)
    for command in all_commands(page)
]


def understand(module: str, given: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a program up to where its command line is parsed, and trainings up to their start."""
    parse = argparse.ArgumentParser.parse_args

    def parse_and_stop(parser: argparse.ArgumentParser, *words: Any, **named: Any) -> NoReturn:
        parse(parser, *words, **named)
        raise Understood

    def stop(*_: object) -> NoReturn:
        raise Understood

    main = import_module(module).main
    monkeypatch.setattr(sys, "argv", [module, *given])
    if module.rpartition(".")[2] in TRAININGS and "--resume" not in given:
        monkeypatch.setattr("rbsf.train.trainer.run", stop)
    else:
        monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
    with pytest.raises(Understood):
        main()


def check_other_program(words: list[str]) -> None:
    """Check what is no program of ours: a target of make, and what pip shall install."""
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", Path("Makefile").read_text(), re.MULTILINE)
    if words[0] == "pip":
        for extras in re.findall(r"\.\[([\w,]+)\]", " ".join(words)):
            known = re.findall(r"^(\w+) = \[", Path("pyproject.toml").read_text(), re.MULTILINE)
            assert {*extras.split(",")} <= {*known}


def test_commands_are_found() -> None:
    text = "a\n```sh\nX=1 python a.py \\\n  --b 2\n```\n`python\nc.py`\n```python\nd\n```\n"
    assert commands(text) == ["X=1 python a.py --b 2"]
    assert inline_commands(text) == ["python c.py"]
    pages = {page for page, _ in PARSED}
    assert {"README.md", "docs/RESULTS.md", "docs/reproduce.md", "docs/guide/track.md"} <= pages


@pytest.mark.parametrize(("page", "command"), PARSED)
def test_command_is_understood(
    page: str, command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    words = words_of(command)
    for word in words[1:]:
        path = word.rpartition("=")[2]
        assert path.split("/")[0] not in TOP or Path(path).exists(), f"{page}: {path}"
    program = program_of(words)
    if program is None:
        check_other_program(words)
        return
    try:
        understand(*program, monkeypatch)
    except (SystemExit, ValueError) as error:
        pytest.fail(f"{page}: {command}\n{capsys.readouterr().err or error}")


@pytest.mark.parametrize("page", DOCUMENTS, ids=page_name)
def test_programs_that_sentences_name_are_there(page: Path, monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    for command in inline_commands(page.read_text()):
        first, *rest = words_of(command)
        if first == "rbsf":
            assert rest[0] in COMMANDS, command
        else:
            check_other_program([first, *rest])


@pytest.fixture(scope="module")
def known_flags() -> set[str]:
    """The flags of all programs, those of trainings for each of their networks."""
    flags: set[str] = set()
    add = argparse.ArgumentParser.add_argument

    def add_and_note(parser: Any, *names: str, **options: Any) -> argparse.Action:
        flags.update(names)
        action = add(parser, *names, **options)
        flags.update(action.option_strings)
        return action

    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(None):
        patch.setattr(argparse._ActionsContainer, "add_argument", add_and_note)
        for module, _ in COMMANDS.values():
            for given in ([], ["--model", "rbsf2"]):
                patch.setattr(sys, "argv", [module, *given, "--help"])
                with pytest.raises(SystemExit):
                    import_module(module).main()
    return flags


@pytest.mark.parametrize("page", FOR_ALL, ids=page_name)
def test_flags_that_sentences_name_are_there(page: Path, known_flags: set[str]) -> None:
    spans = re.findall(r"`([^`]+)`", FENCED.sub("", page.read_text()))
    named = {flag for span in spans for flag in re.findall(r"(?:^|\s)(--[\w-]+)", span)}
    assert named <= known_flags | OTHERS_FLAGS


def test_constants_in_the_guide_are_valid() -> None:
    text = (DOCS / "guide" / "tune.md").read_text()
    ((_, body),) = [block for block in FENCED.findall(text) if block[0] == "yaml"]
    AnchorFreeConfig(**yaml.safe_load(body))


@pytest.mark.parametrize("page", DOCUMENTS, ids=page_name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", FENCED.sub("", page.read_text())):
        if link.startswith("http"):
            continue
        file, _, anchor = link.partition("#")
        target = page.parent / file if file else page
        assert target.exists(), link
        # Anchors with dots are names in the API reference, which the build checks.
        made = "." in anchor and "api" in file
        assert not anchor or made or anchor in heading_anchors(target.read_text()), link


def is_table(command: str) -> bool:
    program = program_of(words_of(command))
    return program is not None and program[0] == "rbsf.tools.reproduce"


@pytest.mark.parametrize("command", [command for _, command in PARSED if is_table(command)])
def test_tables_have_these_rows_and_settings(command: str, tmp_path: Path) -> None:
    """`--list` checks names of rows and settings before it looks for data, which are not here."""
    program = program_of(words_of(command))
    assert program is not None
    with contextlib.suppress(FileNotFoundError):
        reproduce.main([*program[1], "--list", "--out", str(tmp_path)])


def test_every_experiment_is_in_the_index() -> None:
    folder = DOCS / "experiments"
    linked = re.findall(r"^- \[.*?\]\((.+?)\)", (folder / "README.md").read_text(), re.MULTILINE)
    pages = {*folder.glob("*.md"), *folder.glob("*/README.md")} - {folder / "README.md"}
    assert sorted(linked) == sorted(str(page.relative_to(folder)) for page in pages)


def test_every_page_can_be_reached() -> None:
    """It is in the site's navigation, or a page that is there links to it."""
    text = (ROOT / "mkdocs.yml").read_text()
    pages, reached = set(PAGES), set()
    new = {DOCS / name for name in re.findall(r"([\w/.-]+\.md)$", text, re.MULTILINE)}
    while new:
        page = new.pop()
        reached.add(page)
        links = re.findall(r"\]\(([^)#\s]+\.md)", page.read_text())
        new |= pages & {(page.parent / link).resolve() for link in links} - reached
    assert reached == pages


@pytest.mark.parametrize("page", [*FOR_ALL, DOCS / "RESULTS.md"], ids=page_name)
def test_pages_for_readers_in_a_hurry_are_short(page: Path) -> None:
    text = page.read_text()
    if page.name == "RESULTS.md":
        text = text.replace("|", " ")
    assert len(text.split()) <= MAX_WORDS.get(page_name(page), MAX_WORDS_OF_GUIDES)


def test_figures_are_small() -> None:
    figures = list((DOCS / "figures").iterdir())
    assert figures
    assert all(figure.stat().st_size < MAX_FIGURE for figure in figures)


@pytest.mark.slow
def test_the_site_is_built_without_a_warning_and_needs_no_network(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    env = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    pages = [page.read_text() for page in tmp_path.rglob("*.html")]
    assert len(pages) > len(PAGES)
    assert not [found for page in pages for found in OUTSIDE.findall(page)]
    sheets = re.findall(r'<link[^>]*rel="stylesheet"[^>]*>', "".join(pages))
    assert sheets
    assert not [sheet for sheet in sheets if "//" in sheet]


@pytest.mark.slow
def test_figures_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(DOCS))
    figures = import_module("figures")
    monkeypatch.setattr(figures, "FOLDER", tmp_path)
    figures.main()
    drawn = {path.name for path in tmp_path.iterdir()}
    assert drawn == {path.name for path in (DOCS / "figures").iterdir()}
