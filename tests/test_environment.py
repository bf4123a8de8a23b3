"""What is recorded of a run."""

from __future__ import annotations

import sys

import cv2
import torch

from rbsf.environment import cores, environment


def test_what_a_result_needs_to_be_repeated(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["eval/run.py", "--out", "a b"])
    found = environment()
    assert found["command"] == "python eval/run.py --out 'a b'"
    assert found["torch"] == torch.__version__.partition("+")[0] or found["torch"] == torch.__version__
    assert found["opencv"] == cv2.__version__
    assert found["got10k"] == "0.1.3"
    assert found["cores"] == cores() >= 1


def test_git_need_not_be_installed(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert environment()["commit"] == "unknown"
