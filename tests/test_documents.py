"""Every command of the documents is understood, and every link of theirs leads somewhere.

The commands of README.md are run, in test_readme.py. Those of docs/ need data or hours, so their
programs only parse them here.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import shlex
import sys
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import pytest
from conftest import ROOT

from rbsf.tools import reproduce

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES]
FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
FOLDERS = ("benchmarks", "configs", "docs", "eval", "tests", "tools", "weights")
PACKAGES = {"benchmarks": "benchmarks", "eval": "rbsf.eval", "tools": "rbsf.tools"}
TRAININGS = ("train_classifier", "train_rbsf")
MAX_WORDS = 1_100  # of RESULTS.md: two pages


class Understood(Exception):
    """A program has parsed its command line."""


def commands(text: str) -> list[str]:
    """The commands of a page, each on one line: those of its blocks and of its sentences."""
    blocks = [body for kind, body in FENCED.findall(text) if kind in ("", "sh")]
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    sentences = FENCED.sub("", text)
    inline = re.findall(r"`((?:\w+=\w+ )?(?:make|python|pytest)\s[^`]+)`", sentences)
    return [" ".join(line.split()) for line in [*lines, *inline] if line.strip()]


def words_of(command: str) -> list[str]:
    """The words of a command, without a comment and without the variables in front."""
    words = shlex.split(command, comments=True)
    while re.match(r"[A-Z_]+=", words[0]):
        words = words[1:]
    return words


def heading_anchors(text: str) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", FENCED.sub("", text), re.MULTILINE)
    kept = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings]
    return {heading.replace(" ", "-") for heading in kept}


def page_name(path: Path) -> str:
    return str(path.relative_to(ROOT))


COMMANDS = [(page_name(page), command) for page in PAGES for command in commands(page.read_text())]


def understand(program: str, given: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a program up to where its command line is parsed, and trainings up to their start."""
    parse = argparse.ArgumentParser.parse_args

    def parse_and_stop(parser: argparse.ArgumentParser, *words: Any, **named: Any) -> NoReturn:
        parse(parser, *words, **named)
        raise Understood

    def stop(*_: object) -> NoReturn:
        raise Understood

    folder, module = Path(program).with_suffix("").parts
    main = import_module(f"{PACKAGES[folder]}.{module}").main
    monkeypatch.setattr(sys, "argv", [program, *given])
    if module in TRAININGS:
        monkeypatch.setattr("rbsf.train.trainer.run", stop)
    else:
        monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
    with pytest.raises(Understood):
        main()


def test_commands_are_found() -> None:
    text = "a\n```sh\nX=1 python a.py \\\n  --b 2\n```\n`python\nc.py`\n```python\nd\n```\n"
    assert commands(text) == ["X=1 python a.py --b 2", "python c.py"]
    pages = {page for page, _ in COMMANDS}
    assert {"docs/RESULTS.md", "docs/reproduce.md", "docs/experiments/tracking.md"} <= pages


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_command_is_understood(
    page: str, command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    first, program, *given = words_of(command)
    if first == "make":
        assert re.search(rf"^{program}:", Path("Makefile").read_text(), re.MULTILINE)
        return
    for word in (program, *given):
        path = word.rpartition("=")[2]
        assert path.split("/")[0] not in FOLDERS or Path(path).exists(), f"{page}: {path}"
    if first == "pytest":
        return
    assert first == "python", f"{page}: {command}"
    try:
        understand(program, given, monkeypatch)
    except (SystemExit, ValueError) as error:
        pytest.fail(f"{page}: {command}\n{capsys.readouterr().err or error}")


@pytest.mark.parametrize("page", DOCUMENTS, ids=page_name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", FENCED.sub("", page.read_text())):
        if link.startswith("http"):
            continue
        file, _, anchor = link.partition("#")
        target = page.parent / file if file else page
        assert target.exists(), link
        assert not anchor or anchor in heading_anchors(target.read_text()), link


def is_table(command: str) -> bool:
    return words_of(command)[1] == "tools/reproduce.py"


@pytest.mark.parametrize("command", [command for _, command in COMMANDS if is_table(command)])
def test_tables_have_these_rows_and_settings(command: str, tmp_path: Path) -> None:
    """`--list` checks names of rows and settings before it looks for data, which are not here."""
    given = words_of(command)[2:]
    with contextlib.suppress(FileNotFoundError):
        reproduce.main([*given, "--list", "--out", str(tmp_path)])


def test_every_experiment_is_in_the_index() -> None:
    folder = DOCS / "experiments"
    linked = re.findall(r"^- \[.*?\]\((.+?)\)", (folder / "README.md").read_text(), re.MULTILINE)
    pages = {*folder.glob("*.md"), *folder.glob("*/README.md")} - {folder / "README.md"}
    assert sorted(linked) == sorted(str(page.relative_to(folder)) for page in pages)


def test_the_results_are_short() -> None:
    text = (DOCS / "RESULTS.md").read_text().replace("|", " ")
    assert len(text.split()) <= MAX_WORDS
