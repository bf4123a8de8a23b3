"""Several processes on one GPU: taking turns, or at once by NVIDIA's multi-process service (MPS)
where it is there.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

FOLDER = Path(tempfile.gettempdir()) / "rbsf-mps"  # of the service's pipe: its path must be short
CONTROL = "nvidia-cuda-mps-control"
PROBE = "import torch; torch.ones(8, device='cuda').sum().item()"
START_SECONDS, STOP_SECONDS = 40, 10  # that it may take


class Mps:
    """The service, for this user's processes that get `environment`; it changes nothing of the
    card's settings.
    """

    def __init__(self, folder: Path = FOLDER) -> None:
        folders = {
            "CUDA_MPS_PIPE_DIRECTORY": folder / "pipe",
            "CUDA_MPS_LOG_DIRECTORY": folder / "log",
        }
        self.folders = list(folders.values())
        self.environment = {name: str(path) for name, path in folders.items()}

    def start(self) -> str:
        """Start it and try it; the reason why it cannot be had, empty where it runs."""
        if shutil.which(CONTROL) is None:
            return f"{CONTROL} is not there"
        self.stop()  # one that an earlier program has left
        for path in self.folders:
            path.mkdir(parents=True, exist_ok=True)
        try:
            self._run([CONTROL, "-d"], START_SECONDS)
            self._run([sys.executable, "-c", PROBE], START_SECONDS)
        except (OSError, subprocess.SubprocessError) as error:
            self.stop()
            return str(error).splitlines()[0][:200]
        return ""

    def stop(self) -> None:
        """End it, if it runs."""
        if shutil.which(CONTROL) is None:
            return
        try:
            self._run([CONTROL], STOP_SECONDS, "quit\n")
        except (OSError, subprocess.SubprocessError):
            return  # it did not run

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
