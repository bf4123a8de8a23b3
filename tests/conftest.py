"""Fixtures that several tests share."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator
from pathlib import Path

from rbsf.system.program import ENVIRONMENT

for name, value in ENVIRONMENT.items():  # as of all programs; before NumPy and OpenCV are imported
    os.environ.setdefault(name, value)

import cv2
import numpy as np
import pytest
import torch
from requirements import fail_where_required, required, skip_without

from rbsf.datasets.video.sequences import Sequence

if (
    signal.getsignal(signal.SIGINT) == signal.SIG_IGN
):  # as under nohup; the tests of Ctrl-C need it to be heard
    signal.signal(signal.SIGINT, signal.default_int_handler)

torch.set_num_threads(1)  # results to the bit, and no fighting over cores with worker processes

ROOT = Path(__file__).resolve().parents[1]
NARROW = (
    0.1  # width of trackers in tests of all but the network: 32 channels in each layer but the last
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """--operation NAME: of the tests of operations, those of this one."""
    parser.addoption("--operation", metavar="NAME", help="test this operation of the engine alone")


def pytest_configure() -> None:
    """Refuse a $RBSF_REQUIRE that names what is not known."""
    required()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that is skipped for want of what is required has failed."""
    report = yield
    fail_where_required(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """The same of files that are skipped whole."""
    report = yield
    fail_where_required(report)
    return report


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of unpacked real data: $RBSF_DATA with GOT-10k/train, OTB, UAV123_10fps, stills."""
    folder = os.environ.get("RBSF_DATA")
    if not folder:
        skip_without("data", "RBSF_DATA is not set: no real data to test on")
    return Path(folder)


def write_otb(root: Path, name: str, boxes: list[list[float]]) -> None:
    """An OTB sequence of noise, 80 x 60 pixels; boxes are written as OTB does, counted from 1."""
    (root / name / "img").mkdir(parents=True)
    for i in range(1, len(boxes) + 1):
        noise = np.random.default_rng(i).integers(0, 255, (60, 80, 3), np.uint8)
        cv2.imwrite(str(root / name / "img" / f"{i:04d}.jpg"), noise)
    lines = [",".join(f"{v:g}" for v in box) for box in boxes]
    (root / name / "groundtruth_rect.txt").write_text("\n".join(lines) + "\n")


def bare_sequence(name: str, boxes: list[list[float]], one_based: bool = False) -> Sequence:
    """A sequence whose frames are nowhere."""
    return Sequence(
        name,
        tuple(f"{name}/{i:08d}.jpg" for i in range(len(boxes))),
        np.array(boxes, float),
        one_based,
    )


@pytest.fixture(scope="session")
def teacher(tmp_path_factory):
    """Weights of a narrow float SiamFC that knows nothing."""
    return write_teacher(tmp_path_factory.mktemp("teacher") / "siamfc.safetensors", NARROW)


@pytest.fixture(scope="session")
def wide_teacher(tmp_path_factory):
    """Weights of a float SiamFC of full width that knows nothing."""
    return write_teacher(tmp_path_factory.mktemp("wide_teacher") / "siamfc.safetensors", 1.0)


def write_teacher(path: Path, width: float) -> Path:
    from rbsf.models import build
    from rbsf.weights import save_weights

    torch.manual_seed(0)
    save_weights(build("siamfc", width=width), "siamfc", path)
    return path
