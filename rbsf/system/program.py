"""What the programs share: one-line errors, exit codes, the environment.  Imports nothing heavy."""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

ENVIRONMENT = {
    # NumPy's products here are small: with more threads they are no faster, and where others want
    # the cores too, the network's own threads among them, a frame takes several times as long.
    "OPENBLAS_NUM_THREADS": "1",
    # OpenCV and FFmpeg are silent: our own messages name the fault.
    "OPENCV_LOG_LEVEL": "SILENT",
    "OPENCV_FFMPEG_LOGLEVEL": "-8",
}
EXTRAS = {  # of pyproject.toml: modules that come with them
    "train": ("torch", "matplotlib"),
    "eval": ("got10k", "six", "shapely", "matplotlib", "jinja2"),
    "tune": ("got10k", "six", "shapely", "matplotlib", "jinja2", "optuna"),
    "onnx": ("torch", "onnx", "onnxruntime"),
}
INTERRUPTED = 130  # the shell's exit code of a program ended by Ctrl-C


def run(main: Callable[[], int | None]) -> NoReturn:
    """Run a program and exit with its code; what a user can cause becomes one line on stderr, not a
    traceback.

    ValueError, OSError and ImportError, and the end of a process that reads training pairs:
    ``error: ...``, code 1. Ctrl-C: code 130.
    """
    for (
        name,
        value,
    ) in ENVIRONMENT.items():  # in time: no program imports NumPy or OpenCV before this
        os.environ.setdefault(name, value)
    warnings.showwarning = _warn
    try:
        code = main() or 0
    except KeyboardInterrupt:
        code = _complain("interrupted", INTERRUPTED)
    except ImportError as error:
        code = _complain(f"error: {_import_advice(error)}", 1)
    except (ValueError, OSError) as error:
        code = _complain(f"error: {_message(error)}", 1)
    except RuntimeError as error:
        if not re.match(
            r"DataLoader worker \(pid.*\) (exited unexpectedly|is killed by signal)", str(error)
        ):
            raise  # a fault of ours
        advice = (
            "a process that reads pairs was killed, perhaps for want of memory; try --workers 0"
        )
        code = _complain(f"error: {advice} ({error})", 1)
    sys.exit(code)


def require(extra: str) -> None:
    """ValueError, before any work, where a module is missing that comes with `extra`, one of
    EXTRAS.
    """
    missing = [name for name in EXTRAS[extra] if find_spec(name) is None]
    if missing:
        advice = f'install this project with its extra "{extra}", in its clone by: pip install -e ".[{extra}]"'
        raise ValueError(
            f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed; {advice}"
        )


def positive_int(text: str) -> int:
    """Parse a flag's whole number from 1 (``type=`` of argparse)."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)


def frame_number(text: str) -> int:
    """Parse a flag's frame, counted from 0 (``type=`` of argparse)."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a frame, a whole number from 0")
    return int(text)


class Once(argparse.Action):
    """Store a flag's value; given twice, the flag is an error, where argparse would take the last
    value.
    """

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        args: argparse.Namespace,
        value: object,
        option: str | None = None,
    ) -> None:
        """Store ``value``; ArgumentError where there is one."""
        if getattr(args, self.dest) is not None:
            raise argparse.ArgumentError(self, "is given twice; run once for each")
        setattr(args, self.dest, value)


def check_writable(path: Path) -> None:
    """Make ``path``'s folder if need be and try to write there; ValueError names the path and the
    reason.
    """
    if path.is_dir():
        raise ValueError(f"cannot write {path}: it is a folder; give a file name")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent) as file:
            file.write(b"x")
    except OSError as error:
        raise ValueError(f"cannot write {path}: {error.strerror}") from error


def _warn(message: Warning | str, *_: object, **__: object) -> None:
    print(f"warning: {message}", file=sys.stderr)


def _complain(line: str, code: int) -> int:
    print(" ".join(line.split()), file=sys.stderr)
    return code


def _message(error: Exception) -> str:
    """What an error says; of one that PyTorch hands on from a loader's process, with traceback, the
    last line.
    """
    text = str(error)
    if not (text.startswith("Caught ") and "Original Traceback" in text):
        return text
    last = [line for line in text.splitlines() if line.strip()][-1]
    return re.sub(r"^[\w.]+: ", "", last)


def _import_advice(error: ImportError) -> str:
    if "cannot open shared object file" in str(
        error
    ):  # OpenCV's windows need libGL and others that servers lack
        return f"{error}; install that system library, or opencv-python-headless in place of opencv-python"
    return f'{error}; install this project\'s packages, in its clone by: pip install -e ".[all]"'
