"""The record of a run: machine, versions, commit and command."""

from __future__ import annotations

import shutil
import subprocess
import sys

import cv2
import pytest
import torch
from conftest import ROOT
from requirements import needs

from rbsf.system import environment as module
from rbsf.system.environment import cores, environment


def test_the_record_has_what_a_result_needs_to_be_repeated(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["eval/run.py", "--out", "a b"])
    found = environment()
    assert found["command"] == "python eval/run.py --out 'a b'"
    assert (
        found["torch"] == torch.__version__.partition("+")[0] or found["torch"] == torch.__version__
    )
    assert found["opencv"] == cv2.__version__
    assert found["got10k"] == "0.1.3"
    assert found["cores"] == cores() >= 1


def test_a_program_of_the_project_is_named_by_its_place_in_it(monkeypatch):
    monkeypatch.setattr(sys, "argv", [str(ROOT / "tools" / "track.py"), "--init", "1,2,3,4"])
    assert environment()["command"] == "python tools/track.py --init 1,2,3,4"


def test_git_need_not_be_installed(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert environment()["commit"] == "unknown"


@pytest.mark.skipif(shutil.which("git") is None, reason=needs("git", "git is not installed"))
def test_the_commit_of_another_repository_is_not_ours(tmp_path, monkeypatch):
    git = ["git", "-C", str(tmp_path)]
    git += ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=no"]
    subprocess.run([*git, "init", "--quiet"], check=True)
    subprocess.run([*git, "commit", "--quiet", "--allow-empty", "--message", "theirs"], check=True)
    for folder, known in (("rbsf/system", True), ("venv/site/rbsf/system", False)):
        monkeypatch.setattr(module, "__file__", str(tmp_path / folder / "environment.py"))
        assert (environment()["commit"] != "unknown") == known
