"""NVIDIA's multi-process service (MPS): processes use a GPU at the same time, not in turns."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from rbsf.system.text import one_line

FOLDER = Path(tempfile.gettempdir()) / "rbsf-mps"  # the path of the service's pipe must be short
CONTROL = "nvidia-cuda-mps-control"
PROBE = "import torch; torch.ones(8, device='cuda').sum().item()"
START_SECONDS, STOP_SECONDS = 40, 10  # time limits


class Mps:
    """The service, for processes that get `environment`; it changes no setting of the card."""

    def __init__(self, folder: Path = FOLDER) -> None:
        folders = {
            "CUDA_MPS_PIPE_DIRECTORY": folder / "pipe",
            "CUDA_MPS_LOG_DIRECTORY": folder / "log",
        }
        self.folders = list(folders.values())
        self.environment = {name: str(path) for name, path in folders.items()}

    def start(self) -> str:
        """Start the service and try it; returns why that failed, or an empty text."""
        if shutil.which(CONTROL) is None:
            return f"{CONTROL} is not there"
        self.stop()  # an earlier program may have left it running
        for path in self.folders:
            path.mkdir(parents=True, exist_ok=True)
        try:
            self._run([CONTROL, "-d"], START_SECONDS)
            self._run([sys.executable, "-c", PROBE], START_SECONDS)
        except (OSError, subprocess.SubprocessError) as error:
            self.stop()
            return one_line(error, 200) or type(error).__name__
        return ""

    def stop(self) -> None:
        """Stop the service, if it runs."""
        if shutil.which(CONTROL) is None:
            return
        with suppress(OSError, subprocess.SubprocessError):  # it may not run
            self._run([CONTROL], STOP_SECONDS, "quit\n")

    def _run(self, command: list[str], seconds: float, text: str = "") -> None:
        """Raises CalledProcessError or TimeoutExpired."""
        subprocess.run(
            command,
            input=text,
            text=True,
            env={**os.environ, **self.environment},
            check=True,
            timeout=seconds,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
