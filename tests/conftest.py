"""Fixtures that several tests share."""

from __future__ import annotations

import io
import os
import signal
from collections.abc import Callable, Generator, Iterator
from contextlib import redirect_stdout
from pathlib import Path

from rbsf.system.program import ENVIRONMENT

for name, value in ENVIRONMENT.items():  # as all programs do, before they import NumPy and OpenCV
    os.environ.setdefault(name, value)

import cv2
import numpy as np
import pytest
import torch
from requirements import fail_where_required, required, skip_without

from rbsf.datasets.video.sequences import Sequence

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as under nohup
    # The tests of Ctrl-C need it to be heard.
    signal.signal(signal.SIGINT, signal.default_int_handler)

torch.set_num_threads(1)  # equal results to the bit, and cores left for worker processes

ROOT = Path(__file__).resolve().parents[1]
SLOW_TIMEOUT = 1500  # seconds
NARROW = 0.1  # width of trackers that are only an example: 32 channels in all layers but the last


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --operation NAME, which chooses the tests of this operation."""
    parser.addoption("--operation", metavar="NAME", help="test this operation of the engine alone")


def pytest_configure() -> None:
    """Refuse a $RBSF_REQUIRE with unknown words."""
    required()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give slow tests more time before they fail as hung."""
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.timeout(SLOW_TIMEOUT))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that is skipped has failed where $RBSF_REQUIRE names what it lacks."""
    report = yield
    fail_where_required(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """The same holds for files that are skipped whole."""
    report = yield
    fail_where_required(report)
    return report


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data, $RBSF_DATA: GOT-10k/train, OTB, UAV123_10fps, stills, unpacked."""
    folder = os.environ.get("RBSF_DATA")
    if not folder:
        skip_without("data", "RBSF_DATA is not set: no real data to test on")
    return Path(folder)


def part_of(real_data: Path, folder: str) -> Path:
    """The folder of real data, for a test that needs `folder` in it."""
    if not (real_data / folder).is_dir():
        skip_without("data", f"RBSF_DATA has no {folder}")
    return real_data


def refused(call: Callable[[], object], *words: object) -> str:
    """The one line of an error by which `call` refuses its input; it must hold all `words`."""
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text
    for word in words:
        assert str(word) in text
    return text


def write_otb(root: Path, name: str, boxes: list[list[float]]) -> None:
    """Write an OTB sequence of noise, 80 x 60 pixels, with these boxes, counted from 1."""
    (root / name / "img").mkdir(parents=True)
    for i in range(1, len(boxes) + 1):
        noise = np.random.default_rng(i).integers(0, 255, (60, 80, 3), np.uint8)
        cv2.imwrite(str(root / name / "img" / f"{i:04d}.jpg"), noise)
    lines = [",".join(f"{v:g}" for v in box) for box in boxes]
    (root / name / "groundtruth_rect.txt").write_text("\n".join(lines) + "\n")


def bare_sequence(name: str, boxes: list[list[float]], one_based: bool = False) -> Sequence:
    """A sequence whose frames do not exist."""
    frames = tuple(f"{name}/{i:08d}.jpg" for i in range(len(boxes)))
    return Sequence(name, frames, np.array(boxes, float), one_based)


@pytest.fixture(scope="session")
def teacher(tmp_path_factory):
    """Random weights of a narrow float SiamFC."""
    return write_teacher(tmp_path_factory.mktemp("teacher") / "siamfc.safetensors", NARROW)


@pytest.fixture(scope="session")
def wide_teacher(tmp_path_factory):
    """Random weights of a float SiamFC of full width."""
    return write_teacher(tmp_path_factory.mktemp("wide_teacher") / "siamfc.safetensors", 1.0)


def write_teacher(path: Path, width: float) -> Path:
    from rbsf.models import build
    from rbsf.weights import save_weights

    torch.manual_seed(0)
    save_weights(build("siamfc", width=width), "siamfc", path)
    return path


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    """Training crops of three synthetic videos, which lie beside the file in videos/train."""
    from rbsf.datasets.pairs.prepare import prepare
    from rbsf.datasets.synthetic.videos import write_got10k

    folder = tmp_path_factory.mktemp("data")
    write_got10k(folder / "videos" / "train", count=3, seed=5, frames=6, size=(160, 120))
    prepare([folder / "videos" / "train"], folder / "pairs.db", progress=False)
    return folder / "pairs.db"


@pytest.fixture(scope="session")
def image_root(tmp_path_factory):
    """Eight training and four test images of two classes, a bright and a dark one."""
    folder = tmp_path_factory.mktemp("images")
    for split, count in (("train", 4), ("val", 2)):
        for level, name in ((60, "dark"), (180, "bright")):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                noise = np.random.default_rng(number).integers(0, 40, (40, 48, 3)) + level
                cv2.imwrite(str(folder / split / name / f"{number}.png"), noise.astype(np.uint8))
    return folder


@pytest.fixture(scope="session")
def float_resnet(image_root, tmp_path_factory):
    """Weights of a float ResNet that one epoch over these images has trained."""
    from trainings import train_resnet

    out = tmp_path_factory.mktemp("float_resnet") / "run"
    flags = ["--method", "float", "--no-gan", "--no-rectify", "--start", "random", "--epochs", "1"]
    assert train_resnet(image_root, out, *flags) == 0
    return out / "resnet18.safetensors"


@pytest.fixture(scope="session")
def resnet_run(image_root, float_resnet, tmp_path_factory):
    """The folder of a whole training of a binary ResNet with that teacher, and what it printed."""
    from trainings import train_resnet

    out = tmp_path_factory.mktemp("resnet") / "run"
    with redirect_stdout(io.StringIO()) as said:
        assert train_resnet(image_root, out, "--teacher", str(float_resnet)) == 0
    return out, said.getvalue()


@pytest.fixture(scope="session")
def trained_resnet(resnet_run):
    """The folder of that training."""
    return resnet_run[0]


@pytest.fixture
def hangup() -> Iterator[None]:
    """SIGHUP acts as usual, also where the tests run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)
