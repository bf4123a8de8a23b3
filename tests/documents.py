"""The pages of the documents, and the commands in them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from conftest import ROOT

from rbsf.tools.command import COMMANDS

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
GUIDES = [DOCS / "index.md", *sorted((DOCS / "guide").glob("*.md"))]
FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"`((?:\w+=\w+ )?(?:make|python|pytest|rbsf|pip)\s[^`]+)`")
FOLDERS = {"benchmarks": "benchmarks", "eval": "rbsf.eval", "tools": "rbsf.tools"}


def page_name(path: Path) -> str:
    """The path of a page below the top folder."""
    return str(path.relative_to(ROOT))


def block_commands(body: str) -> list[str]:
    """The commands of a block, each on one line."""
    lines = body.replace("\\\n", " ").splitlines()
    return [" ".join(line.split()) for line in lines if line.strip()]


def commands(text: str) -> list[str]:
    """The commands in the blocks of a page, each on one line."""
    blocks = [body for kind, body in FENCED.findall(text) if kind in ("", "sh")]
    return [line for body in blocks for line in block_commands(body)]


def steps(text: str) -> list[tuple[str, str]]:
    """The commands ("sh") and programs ("python") in the blocks of a page, in their order."""
    found = []
    for kind, body in FENCED.findall(text):
        if kind == "sh":
            found += [("sh", line) for line in block_commands(body)]
        if kind == "python":
            found.append(("python", body))
    return found


def inline_commands(text: str) -> list[str]:
    """The commands in the sentences of a page, each on one line."""
    return [" ".join(line.split()) for line in INLINE.findall(FENCED.sub("", text))]


def words_of(command: str) -> list[str]:
    """The words of a command, without a comment and without the variables in front."""
    words = shlex.split(command, comments=True)
    while words and re.match(r"[A-Z_]+=", words[0]):
        words = words[1:]
    return words


def program_of(words: list[str]) -> tuple[str, list[str]] | None:
    """The module of this project's program that a command calls, and its flags.

    None for what is no program of this project, such as pip. Raises KeyError for `rbsf` with a name
    that it does not know.
    """
    if words[0] == "rbsf" and len(words) > 1:
        return COMMANDS[words[1]][0], words[2:]
    if words[0] == "python" and words[1].endswith(".py"):
        folder, name = Path(words[1]).with_suffix("").parts
        return f"{FOLDERS[folder]}.{name}", words[2:]
    return None


def heading_anchors(text: str) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", FENCED.sub("", text), re.MULTILINE)
    kept = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings]
    return {heading.replace(" ", "-") for heading in kept}
