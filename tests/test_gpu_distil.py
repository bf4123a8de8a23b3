"""RB-SF 2 on another machine with a GPU: data in parts, a rehearsal that resumes, and bad input."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from rbsf.tools.gpu import distil
from rbsf.tools.gpu_run import main
from rbsf.tracker.teachers.graph import read_graph
from rbsf.weights import load_weights

PROGRAM = [sys.executable, str(ROOT / "tools" / "gpu_run.py")]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    distil.make_up(folder)
    return folder / distil.FOLDER


def teacher(made: Path) -> str:
    return ",".join(str(made / name) for name in distil.TEACHER)


def test_parts_give_the_data_and_the_teacher_again(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not distil.unpack(tmp_path, tmp_path / "run")
    flags = ["--pairs", str(made / "pairs.db"), "--teacher", teacher(made)]
    assert main(["--pack", str(tmp_path), *flags]) == 0
    assert "rbsf2-1-of-1.part: " in capsys.readouterr().out
    parts = distil.pack(made / "pairs.db", teacher(made), tmp_path, 50_000)
    assert len(parts) > 1
    assert all(part.stat().st_size <= 50_000 for part in parts)
    assert distil.unpack(tmp_path, tmp_path / "run")
    target = tmp_path / "run" / distil.FOLDER
    assert (target / "pairs.db").read_bytes() == (made / "pairs.db").read_bytes()
    for name in distil.TEACHER:
        assert read_graph(target / name).operations == read_graph(made / name).operations
    parts[-1].unlink()
    assert distil.unpack(tmp_path, tmp_path / "run"), "what is there is not put together again"
    with pytest.raises(FileNotFoundError, match=f"lacks {parts[-1].name}"):
        distil.unpack(tmp_path, tmp_path / "other")


def test_a_rehearsal_leaves_weights(tmp_path: Path) -> None:
    command = [*PROGRAM, "--rehearse", "--out", str(tmp_path / "run"), "--only", "rbsf2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| rbsf2 | done | " in done.stdout
    assert load_weights(tmp_path / "run" / "rbsf2" / "rbsf2" / "rbsf2.safetensors")[1] == "rbsf2"


def test_mistakes_of_a_user_are_named(made: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--pairs and --teacher go together"):
        main(["--pack", str(tmp_path), "--pairs", str(made / "pairs.db")])
    with pytest.raises(ValueError, match="give two files"):
        main(["--pack", str(tmp_path), "--pairs", str(made / "pairs.db"), "--teacher", "one.onnx"])
    with pytest.raises((ValueError, FileNotFoundError), match=r"none\.db"):
        main(["--pack", str(tmp_path), "--pairs", "none.db", "--teacher", teacher(made)])
