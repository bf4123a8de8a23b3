"""No environment of a process may make a program fail, least of all at its end."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from requirements import needs, skip_without
from trainings import NET, QUICK

INLINE = {"MPLBACKEND": "module://matplotlib_inline.backend_inline"}
UNSET = {"HOME": None, "XDG_CACHE_HOME": None, "RBSF_CACHE": None}
ENVIRONMENTS = {
    "of a notebook": INLINE,
    "that writes ASCII": {"PYTHONIOENCODING": "ascii"},
    "in which warnings are errors": {"PYTHONWARNINGS": "error"},
    "without a home": UNSET,
    "with a home that takes no files": {**UNSET, "HOME": "/proc/nowhere"},
    "of decimal commas": {"LC_ALL": "de_DE.UTF-8", "LANG": "de_DE.UTF-8"},
    "of words for threads": {"OMP_NUM_THREADS": "all", "OPENBLAS_NUM_THREADS": "-1"},
    "of too many threads": {"OMP_NUM_THREADS": "99999999", "MKL_NUM_THREADS": "0"},
}
ALL = {**INLINE, "PYTHONIOENCODING": "ascii", "PYTHONWARNINGS": "error", **UNSET}


def run_program(name: str, *words: object, **changes: str | None) -> tuple[int, str, str]:
    """Run a program of the project in a changed environment: exit code, output, errors."""
    env = {**os.environ, **changes, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / name), *map(str, words)]
    env = {key: value for key, value in env.items() if value is not None}
    done = subprocess.run(command, capture_output=True, timeout=200, env=env)
    return done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode()


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Two short sequences, in a folder whose name is not ASCII."""
    from rbsf.datasets.synthetic.videos import write_got10k

    root = tmp_path_factory.mktemp("data") / "w-ü"
    write_got10k(root, count=2, seed=5, frames=3, size=(160, 120))
    return root


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_a_benchmark_writes_its_report(videos, tmp_path, environment):
    out = tmp_path / "ü"
    words = ["--dataset", "folder", "--root", videos, "--tracker", "static", "--out", out]
    code, said, errors = run_program(
        "eval/run_benchmarks.py", *words, "--workers", 1, **ENVIRONMENTS[environment]
    )
    assert (code, "Traceback" in errors) == (0, False), errors
    assert "static" in said
    assert (out / "reports" / "folder-w-ü" / "report.html").is_file()


def test_a_training_makes_its_weights(image_root, tmp_path):
    out = tmp_path / "ü"
    words = [*NET, "--root", image_root, "--out", out, *QUICK, "--epochs", 1, "--method", "float"]
    words += ["--no-gan", "--no-rectify", "--start", "random"]
    code, _, errors = run_program("tools/train_classifier.py", *words, **ALL)
    assert (code, "Traceback" in errors) == (0, False), errors
    assert {"resnet18.safetensors", "losses.png"} <= set(os.listdir(out))


def test_threads_that_are_no_number_are_named(tmp_path):
    made = ["--count", 1, "--frames", 2, "--out", tmp_path / "a"]
    code, _, errors = run_program("tools/make_synthetic.py", *made, OMP_NUM_THREADS="many")
    assert code == 0
    assert "warning: OMP_NUM_THREADS='many' is no number of threads; it is ignored\n" in errors


def latin_name(folder: Path) -> Path:
    """A path that is no UTF-8 text."""
    path = Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9"))
    try:
        path.mkdir()
    except OSError:
        skip_without("linux", "file names here have to be text")
    return path


def test_a_name_that_is_not_utf8_is_shown_with_escapes(tmp_path):
    name = latin_name(tmp_path)
    code, _, errors = run_program("tools/classify.py", "--weights", name / "a.safetensors", ".")
    assert code == 1
    assert errors == f"error: no weights file {tmp_path}/caf\\udce9/a.safetensors\n"


def test_crops_and_reports_are_made_below_a_name_that_is_not_utf8(tmp_path, videos):
    name = latin_name(tmp_path)
    store = name / "pairs.db"
    code, _, errors = run_program("tools/prepare_pairs.py", "--data", videos, "--out", store)
    assert (code, store.is_file()) == (0, True), errors
    words = ["--dataset", "folder", "--root", videos, "--tracker", "static"]
    code, _, errors = run_program("eval/run_benchmarks.py", *words, "--out", name, "--workers", 1)
    assert code == 0, errors


def test_a_training_into_a_name_that_is_not_utf8_is_refused_at_its_start(tmp_path, image_root):
    out = latin_name(tmp_path) / "run"
    code, _, errors = run_program(
        "tools/train_classifier.py", *NET, "--root", image_root, "--out", out, *QUICK
    )
    assert (code, out.exists()) == (1, False)
    assert errors.endswith("caf\\udce9/run: not UTF-8; choose a folder whose name is\n")


def test_curves_that_cannot_be_drawn_do_not_end_a_training(tmp_path, monkeypatch):
    from rbsf.train.log import History

    def broken(*_: object) -> None:
        raise RuntimeError("latex could not be found")

    log = History(tmp_path)
    monkeypatch.setattr(History, "_plot", broken)
    log.rows.append({"step": 1, "loss": 2.0})
    with pytest.warns(UserWarning, match=r"losses\.png is not drawn: .*latex could not be found"):
        log.write(final=True)
    assert (tmp_path / "log.csv").read_text() == "step,loss\n1,2.0\n"


@pytest.mark.parametrize(
    ("streams", "expected"),
    [("2>&-", 0), ("2>/dev/full", 1), (">/dev/full", 1), (">&-", 0), ("| true", 0)],
)
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason=needs("linux", "there is /dev/full"))
def test_a_stream_that_fails_ends_no_work(videos, tmp_path, streams, expected):
    words = ["eval/run_benchmarks.py", "--dataset", "folder", "--root", videos, "--workers", 1]
    words += ["--tracker", "static", "--out", tmp_path]
    command = " ".join(shlex.quote(str(word)) for word in [sys.executable, *words])
    shell = f"set -o pipefail; {command} {streams}"
    done = subprocess.run(["bash", "-c", shell], cwd=ROOT, capture_output=True, timeout=200)
    assert done.returncode == expected
    assert list(tmp_path.rglob("report.json"))
    if streams == ">/dev/full":
        assert b"error: cannot write to stdout: No space left on device" in done.stderr
