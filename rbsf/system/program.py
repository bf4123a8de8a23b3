"""Shared parts of the programs: one-line errors, exit codes, flag checks. Imports nothing slow."""

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

from rbsf.system.files import is_stream
from rbsf.system.streams import failed_output, mend_streams
from rbsf.system.text import one_line

ENVIRONMENT = {
    # NumPy's products here are small, so more threads make them no faster. If others use the cores
    # too, such as the network's own threads, a frame would take several times as long.
    "OPENBLAS_NUM_THREADS": "1",
    # OpenCV and FFmpeg print nothing, since our own messages name the fault.
    "OPENCV_LOG_LEVEL": "SILENT",
    "OPENCV_FFMPEG_LOGLEVEL": "-8",
    # A tiny file can claim any size. 67 million pixels take 200 to 800 MB to read.
    "OPENCV_IO_MAX_IMAGE_PIXELS": str(1 << 26),
}
# Notebooks set a backend that child processes lack. No program opens a Matplotlib window.
BACKEND = {"MPLBACKEND": "agg"}
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
MAX_INT = 2**31 - 1
MOST_THREADS = 1024  # with more threads, libraries end the process
MOST_PROCESSES = max(32, 4 * (os.cpu_count() or 1))  # each takes 70 MB and more
_EVAL = ("got10k", "six", "shapely", "matplotlib", "jinja2")
EXTRAS = {  # an extra of pyproject.toml -> the modules that it installs
    "train": ("torch", *_EVAL),  # training also validates the trained network
    "eval": _EVAL,
    "tune": (*_EVAL, "optuna"),
    "onnx": ("torch", "onnx", "onnxruntime"),
    "serve": ("starlette", "uvicorn", "websockets"),
}
INTERRUPTED = 130  # the shell's exit code of a program ended by Ctrl-C
WORKER_DIED = re.compile(r"DataLoader worker \(pid.*\) (exited unexpectedly|is killed by signal)")


def run(main: Callable[[], int | None]) -> NoReturn:
    """Run a program and exit with its code.

    Errors that a user can cause print one line on stderr, `error: ...`, and give code 1:
    ValueError, OSError, ImportError, and the death of a process that reads training pairs. Ctrl-C
    gives code 130. All other errors give a traceback.
    """
    warnings.showwarning = _warn
    _mend_environment()  # no program imports NumPy or OpenCV before this
    try:
        code = main() or 0
    except KeyboardInterrupt:
        code = _complain("interrupted", INTERRUPTED)
    except ImportError as error:
        code = _complain(f"error: {_import_advice(error)}", 1)
    except (ValueError, OSError) as error:
        code = _complain(f"error: {_message(error)}", 1)
    except RuntimeError as error:
        if not WORKER_DIED.match(str(error)):
            raise  # a bug in this program
        cause = "a process that reads pairs was killed, perhaps for want of memory"
        code = _complain(f"error: {cause}; try --workers 0 ({error})", 1)
    sys.exit(code or failed_output())


def _mend_environment() -> None:
    """Correct environment settings that could make the process or its workers fail."""
    mend_streams()
    _tell_warnings()
    for name in THREADS:
        value = os.environ.get(name)
        if value is not None and not _are_threads(value):
            del os.environ[name]
            warnings.warn(f"{name}={value!r} is no number of threads; it is ignored", stacklevel=2)
    os.environ.update(BACKEND)
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def _tell_warnings() -> None:
    """Print warnings that `PYTHONWARNINGS=error` and `-W error` would turn into errors."""
    if any(action == "error" for action, *_ in warnings.filters):
        warnings.simplefilter("default")
        sys.warnoptions.clear()  # worker processes would inherit these
        os.environ.pop("PYTHONWARNINGS", None)


def _are_threads(value: str) -> bool:
    """Whether a variable's value is a number of threads, or one for each level of nesting."""
    return all(
        number.strip().isdecimal() and 1 <= int(number[:9]) <= MOST_THREADS
        for number in value.split(",")
    )


def require(extra: str) -> None:
    """Raise ValueError, before any work, if a module of `extra`, one of EXTRAS, is missing."""
    missing = [name for name in EXTRAS[extra] if find_spec(name) is None]
    if not missing:
        return
    verb = "is" if len(missing) == 1 else "are"
    raise ValueError(f"{', '.join(missing)} {verb} not installed; {install_advice(extra)}")


def install_advice(extra: str) -> str:
    """Advice on installing this project with an extra."""
    clone, wheel = f'pip install -e ".[{extra}]"', f'pip install "FILE.whl[{extra}]"'
    return f'install this project with its extra "{extra}": in its clone {clone}, else {wheel}'


def positive_int(text: str) -> int:
    """Parse a flag's whole number from 1 (`type=` of argparse)."""
    return _whole_number(text, 1, MAX_INT)


def seed_number(text: str) -> int:
    """Parse a flag's seed of random numbers (`type=` of argparse)."""
    return _whole_number(text, 0, MAX_INT)


def thread_count(text: str) -> int:
    """Parse a flag's number of threads (`type=` of argparse)."""
    return _whole_number(text, 1, MOST_THREADS)


def process_count(text: str) -> int:
    """Parse a flag's number of processes (`type=` of argparse)."""
    return _whole_number(text, 1, MOST_PROCESSES)


def _whole_number(text: str, least: int, most: int) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least}")
    if int(text) > most:
        raise argparse.ArgumentTypeError(f"{text!r} is more than {most:,}")
    return int(text)


def check_writable(path: Path) -> None:
    """Create the folder of the file `path` if necessary, and try to write there.

    Raises ValueError that names the path and the reason.
    """
    if path.is_dir():
        raise ValueError(f"cannot write {path}: it is a folder; give a file name")
    if is_stream(path):
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent) as file:
            file.write(b"x")
    except OSError as error:
        raise ValueError(f"cannot write {path}: {error.strerror}") from error


def check_not_input(flag: str, out: Path, *inputs: Path) -> None:
    """Raise ValueError if a file that is to be written is one of the inputs."""
    if any(is_same_file(out, path) for path in inputs):
        raise ValueError(f"{flag} {out} is the input itself; give another name")


def is_same_file(path: Path, other: Path) -> bool:
    """Whether both names lead to one file that is there."""
    return path.exists() and other.exists() and path.samefile(other)


def _warn(message: Warning | str, *_: object, **__: object) -> None:
    print(f"warning: {one_line(message)}", file=sys.stderr)


def _complain(line: str, code: int) -> int:
    print(one_line(line), file=sys.stderr)
    return code


def _message(error: Exception) -> str:
    """The message of an error.

    PyTorch passes errors from a loader's process on with their traceback. For these the result is
    the last line, without the error's type.
    """
    text = str(error)
    from_loader = text.startswith("Caught ") and "Original Traceback" in text
    if not from_loader:
        return text
    last_line = text.rstrip().splitlines()[-1]
    return re.sub(r"^[\w.]+: ", "", last_line)


def _import_advice(error: ImportError) -> str:
    # OpenCV's windows need libGL and other libraries that servers lack.
    if "cannot open shared object file" in str(error):
        alternative = "opencv-python-headless in place of opencv-python"
        return f"{error}; install that system library, or {alternative}"
    return f"{error}; {install_advice('all')}"
