"""$RBSF_REQUIRE names what tests must not be skipped for."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
from requirements import KNOWN, needs

TESTS = Path(__file__).parent
SAMPLE = """
import pytest
from requirements import needs, skip_without

def test_skipped():
    skip_without("peers", "there are none")

@pytest.mark.skipif(True, reason=needs("data", "there is none"))
def test_marked():
    pass

def test_passes():
    pass
"""


def outcome(folder: Path, required: str) -> tuple[int, str]:
    (folder / "test_sample.py").write_text(SAMPLE)
    command = [sys.executable, "-m", "pytest", "-p", "conftest", "-p", "no:cacheprovider"]
    command += ["-rA", str(folder)]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)]),
        "RBSF_REQUIRE": required,
    }
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


def test_a_skip_of_what_is_required_is_a_failure(tmp_path: Path) -> None:
    code, said = outcome(tmp_path, "git peers")
    assert code == 1
    assert "1 failed, 1 passed, 1 skipped" in said
    line = "RBSF_REQUIRE names peers, but this was skipped: Skipped: needs peers: there are none"
    assert line in said


def test_other_skips_are_skips(tmp_path: Path) -> None:
    code, said = outcome(tmp_path, "")
    assert (code, "1 passed, 2 skipped" in said) == (0, True)


def test_a_word_that_is_not_known_is_an_error(tmp_path: Path) -> None:
    code, said = outcome(tmp_path, "pears")
    assert code == 4
    assert "RBSF_REQUIRE names pears; known: cases, chromium, compiler, cpuid, data, " in said


def test_every_skip_says_what_it_needs() -> None:
    """`fail_where_required` reads these words."""
    bare = []
    for path in TESTS.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            skips = called == "pytest.skip" or called in (
                "pytest.importorskip",
                "pytest.mark.skipif",
            )
            if skips and "needs(" not in ast.unparse(node):
                bare.append(f"{path.name}:{node.lineno}")
    assert not bare


def test_words_are_known() -> None:
    assert needs("data", "why") == "needs data: why"
    with pytest.raises(KeyError):
        needs("nothing", "why")
    assert all(KNOWN.values())
