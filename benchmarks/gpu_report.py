"""The report of a check or timing on a GPU: `report.md` for people, `report.json` for programs."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from rbsf.eval.tables import Cell, Table
from rbsf.system.environment import environment
from rbsf.system.files import write_atomically
from rbsf.system.program import positive_int


def write_report(
    folder: Path,
    title: str,
    device: torch.device,
    heads: list[str],
    rows: list[list[str]],
    text: str = "",
    **data: Any,
) -> None:
    """Rewrite both files: a table, the `text` below it, and the environment.

    `data` only goes into `report.json`.
    """
    about = environment() | {"card": card(device), "cuda": torch.version.cuda or ""}
    table = Table("", heads, [[Cell(text) for text in row] for row in rows])
    where = f"{about['card'] or about['processor']}, PyTorch {torch.__version__}, {about['date']}"
    words = [f"## {title}", where, str(table), text, f"`{about['command']}`"]
    content = "\n\n".join(word for word in words if word) + "\n"
    write_atomically(folder / "report.md", content.encode())
    found = {"heads": heads, "rows": rows} | data | {"environment": about}
    write_atomically(folder / "report.json", json.dumps(found, indent=1).encode())


def trial_parser(description: str, batch_size: int, out: Path) -> argparse.ArgumentParser:
    """A parser with the flags that all programs with trial steps share."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--device", default="cuda", help="where the steps run (default: %(default)s)")
    add("--stages", default="32-32-64-128", help="channels of the network (default: %(default)s)")
    add(
        "--batch-size",
        type=positive_int,
        default=batch_size,
        metavar="N",
        help="images (default: %(default)s)",
    )
    add(
        "--out", type=Path, default=out, metavar="DIR", help="for the report (default: %(default)s)"
    )
    return parser


def end_cleanly_on_sigterm() -> None:
    """Make SIGTERM raise SystemExit, so that the program can end the processes it started."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def card(device: torch.device) -> str:
    """The name of a GPU; empty for a CPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else ""
