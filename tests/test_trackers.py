"""Trackers that a benchmark can run: names, names of their results, and OpenCV's own."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import ROOT
from requirements import peers, skip_without

from rbsf.datasets.synthetic.videos import make_sequence
from rbsf.eval import run_benchmarks
from rbsf.eval.metrics import overlaps
from rbsf.eval.trackers import NetworkSpec, parse_tracker
from rbsf.eval.trackers.opencv import OpenCVSpec, seed_opencv
from rbsf.eval.trackers.static import StaticSpec, StaticTracker
from rbsf.models import build
from rbsf.shipped import DEFAULT
from rbsf.tracker.anchor_free import AnchorFreeConfig
from rbsf.tracker.siamfc import TrackerConfig
from rbsf.weights import save_weights


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A folder with files that are no models."""
    for name in ("net.safetensors", "backbone.onnx", "head.onnx"):
        (tmp_path / name).write_bytes(b"garbage " * 4)
    return tmp_path


# ---- names


def test_shipped_weights_are_named_by_their_model() -> None:
    spec = parse_tracker("rbsf")
    assert spec == NetworkSpec("rbsf", (ROOT / "weights/rbsf.safetensors",), engine="packed")
    assert re.fullmatch("rbsf-[0-9a-f]{8}-packed", spec.key())
    trained = parse_tracker("rbsf", engine="torch")
    assert trained == NetworkSpec("rbsf", (ROOT / "weights/rbsf-train.safetensors",))
    assert spec.arithmetic == "packed"
    assert trained.arithmetic == "float32"
    assert parse_tracker("static").arithmetic is None
    assert spec.size() == (ROOT / "weights/rbsf.safetensors").stat().st_size
    assert parse_tracker("ours=rbsf") == replace(spec, label="ours")


def test_a_weights_file_has_the_name_of_its_file(models: Path) -> None:
    constants = models / "mine.yaml"
    constants.write_text("scale_step: 1.05\n")
    spec = parse_tracker(f"{models}/net.safetensors", "bfloat16", "cuda:1", constants)
    config = TrackerConfig(scale_step=1.05)
    assert spec == NetworkSpec(
        "net", (models / "net.safetensors",), "mine.yaml", "bfloat16", "cuda:1", config
    )
    assert spec.size() == 32


def test_label_ends_at_the_first_equals_sign(models: Path) -> None:
    (models / "lr=0.1").mkdir()
    weights = (models / "net.safetensors").rename(models / "lr=0.1/net.safetensors")
    assert parse_tracker(f"new={weights}") == NetworkSpec("new", (weights,))
    # A file's name is no label.
    assert parse_tracker(str(weights)) == NetworkSpec("net", (weights,))


def test_static_is_a_tracker() -> None:
    assert parse_tracker("static") == StaticSpec("static")
    assert parse_tracker("floor=static") == StaticSpec("floor")
    assert parse_tracker("static").size() is None
    assert parse_tracker("static").key() == "static"


def test_opencv_trackers_are_named_with_their_files(models: Path) -> None:
    files = (models / "backbone.onnx", models / "head.onnx")
    nano = f"opencv:Nano:{files[0]},{files[1]}"
    assert parse_tracker("opencv:MIL") == OpenCVSpec("MIL", tracker="MIL")
    assert parse_tracker("opencv:MIL").size() is None
    assert parse_tracker(nano) == OpenCVSpec("Nano", files, tracker="Nano")
    assert parse_tracker(nano).size() == 64
    assert parse_tracker(f"peer={nano}").label == "peer"
    assert parse_tracker(f"opencv:Vit:{files[0]}") == OpenCVSpec("Vit", files[:1], tracker="Vit")
    assert parse_tracker("opencv:CSRT") == OpenCVSpec("CSRT", tracker="CSRT")


def test_constants_are_of_our_own_networks_alone(tmp_path: Path) -> None:
    """A floor beside RB-SF 2 takes no notice of its constants; another network refuses them."""
    constants = tmp_path / "tuned.yaml"
    constants.write_text("size_rate: 0.2\n")
    assert parse_tracker("rbsf2", constants=constants).config.size_rate == 0.2
    assert parse_tracker("static", constants=constants) == StaticSpec("static")
    with pytest.raises(ValueError, match="has constants of the tracker rbsf2, which no other can"):
        parse_tracker("rbsf", constants=constants)


@pytest.mark.parametrize(
    ("text", "kind", "fault"),
    [
        ("=rbsf", ValueError, "--tracker '=rbsf': the label before = is empty"),
        (
            "rbfs",
            FileNotFoundError,
            "--tracker 'rbfs': no such weights file; give one, or rbsf, rbsf2, siamfc, static, "
            "opencv:MIL, opencv:KCF, opencv:CSRT, opencv:Nano, opencv:Vit",
        ),
        ("a=", FileNotFoundError, "--tracker '': no such weights file"),
        ("a=b=static", FileNotFoundError, "--tracker 'b=static': no such weights file"),
        (
            "opencv:Foo",
            ValueError,
            "--tracker 'opencv:Foo': OpenCV's trackers known here are MIL, KCF, CSRT, Nano",
        ),
        ("opencv:", ValueError, "--tracker 'opencv:': OpenCV's trackers known here are MIL"),
        ("opencv:MIL:net.onnx", ValueError, "opencv:MIL takes 0 model files: opencv:MIL"),
        (
            "opencv:Nano",
            ValueError,
            "opencv:Nano takes 2 model files: opencv:Nano:backbone.onnx,neckhead.onnx",
        ),
        ("opencv:Nano:a.onnx", ValueError, "opencv:Nano takes 2 model files"),
        ("opencv:Vit:a,b", ValueError, "opencv:Vit takes 1 model files: opencv:Vit:net.onnx"),
        (
            "opencv:Vit:a.onnx",
            FileNotFoundError,
            "--tracker 'opencv:Vit:a.onnx': no model file a.onnx",
        ),
    ],
)
def test_an_unknown_name_is_refused(text: str, kind: type[Exception], fault: str) -> None:
    with pytest.raises(kind, match=re.escape(fault)) as caught:
        parse_tracker(text)
    assert "\n" not in str(caught.value)


# ---- names of results


def test_a_key_tells_all_that_boxes_depend_on(models: Path) -> None:
    weights = models / "net.safetensors"
    spec = parse_tracker(str(weights))
    key = spec.key()
    assert re.fullmatch(r"net-[0-9a-f]{8}", key)
    assert replace(spec, precision="bfloat16").key() == f"{key}-bfloat16"
    assert replace(spec, config=TrackerConfig(scale_step=1.05)).key() != key
    assert replace(spec, label="other").key() == key
    (models / "moved").mkdir()
    weights.rename(models / "moved/net.safetensors")
    assert parse_tracker(f"{models}/moved/net.safetensors").key() == key
    weights.write_bytes(b"other weights")
    assert spec.key() != key


def test_key_is_of_the_code_and_the_device_too(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = parse_tracker(str(models / "net.safetensors"))
    keys = [spec.key()]
    for name, value in (
        ("cv2.__version__", "4.99.0"),
        ("rbsf.eval.trackers.network.TRACKER_VERSION", 99),
        ("rbsf.train.device.choose_device", lambda name: torch.device("cuda:1")),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(name, value)
            keys.append(spec.key())
    assert len(set(keys)) == 4
    assert (
        replace(spec, device="auto", engine="packed").key() == replace(spec, engine="packed").key()
    )
    assert spec.key() == keys[0]


def test_key_is_a_plain_folder_name(models: Path) -> None:
    weights = (models / "net.safetensors").rename(models / "my net (2).v1.safetensors")
    assert re.fullmatch(r"my_net__2_\.v1-[0-9a-f]{8}", parse_tracker(str(weights)).key())


def test_key_of_an_opencv_tracker_is_of_its_models_and_version(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone, head = models / "backbone.onnx", models / "head.onnx"
    mil, nano = (
        OpenCVSpec("MIL", tracker="MIL"),
        OpenCVSpec("Nano", (backbone, head), tracker="Nano"),
    )
    keys = [spec.key() for spec in (mil, nano)]
    assert re.fullmatch(r"opencv-MIL-[0-9a-f]{8}", keys[0])
    assert re.fullmatch(r"opencv-Nano-[0-9a-f]{8}", keys[1])
    assert replace(mil, label="other").key() == keys[0]
    with monkeypatch.context() as patch:
        patch.setattr(cv2, "__version__", "4.99.0")
        assert mil.key() != keys[0]
        assert nano.key() != keys[1]
    head.write_bytes(b"another head")
    assert nano.key() != keys[1]


# ---- the trackers


def test_static_tracker_keeps_the_first_box() -> None:
    tracker, image = StaticTracker(), np.zeros((60, 80, 3), np.uint8)
    tracker.init(image, np.array([10, 11, 12, 13]))
    for _ in range(2):
        result = tracker.update(image)
        assert result.box.tolist() == [10, 11, 12, 13]
        assert not result.lost
        result.box[:] = 0  # the caller may write into it


def follow(
    tracker: object, seed: int = 0, size: tuple[int, int] = (160, 120)
) -> tuple[np.ndarray, float]:
    """Boxes in a made video of a moving target, and their mean overlap."""
    frames = list(make_sequence(seed, 10, size))
    tracker.init(*frames[0])  # type: ignore[attr-defined]
    boxes = np.array([frames[0][1], *(tracker.update(image).box for image, _ in frames[1:])])  # type: ignore[attr-defined]
    return boxes, overlaps(boxes, np.array([box for _, box in frames])).mean()


def test_mil_follows_a_target_and_repeats_itself() -> None:
    tracker = OpenCVSpec("MIL", tracker="MIL").build()
    runs = []
    for number in (1, 2, 1):
        seed_opencv(number)
        runs.append(follow(tracker))
    assert min(overlap for _, overlap in runs) > 0.3
    assert (runs[0][0] == runs[2][0]).all()
    assert (runs[0][0] != runs[1][0]).any()


def test_box_stays_where_opencv_finds_nothing() -> None:
    class Lost:
        def init(self, image: np.ndarray, box: tuple[int, ...]) -> None:
            self.given = image[0, 0].tolist(), box

        def update(self, image: np.ndarray) -> tuple[bool, tuple[int, ...]]:
            return False, (0, 0, 0, 0)

    tracker = OpenCVSpec("MIL", tracker="MIL").build()
    tracker._make = Lost  # type: ignore[attr-defined]
    image = np.full((60, 80, 3), (1, 2, 3), np.uint8)
    tracker.init(image, np.array([10.6, 11.2, 0.3, 12]))
    assert tracker._tracker.given == ([3, 2, 1], (11, 11, 1, 12))  # type: ignore[attr-defined]
    result = tracker.update(image)
    assert result.box.tolist() == [10.6, 11.2, 0.3, 12]
    assert result.lost


@pytest.mark.parametrize("name", ["KCF", "CSRT"])
def test_a_tracker_that_opencv_lacks_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(cv2, f"Tracker{name}_create", raising=False)
    message = rf"opencv:{name} is not in OpenCV .*contrib.* --results {name}=FOLDER$"
    with pytest.raises(ValueError, match=message):
        OpenCVSpec(name, tracker=name).build()


@pytest.mark.parametrize("name", ["Nano", "Vit"])
def test_a_model_file_of_garbage_is_named(models: Path, name: str) -> None:
    if not hasattr(cv2, f"Tracker{name}_create"):
        skip_without("opencv", f"OpenCV {cv2.__version__} has no {name}")
    files = (models / "backbone.onnx", models / "head.onnx")[: 2 if name == "Nano" else 1]
    message = rf"opencv:{name} cannot use .*/backbone\.onnx.* \(.*/backbone\.onnx"
    with pytest.raises(ValueError, match=message) as caught:
        OpenCVSpec(name, files, tracker=name).build()
    assert "\n" not in str(caught.value)


def test_a_weights_file_of_garbage_is_named(models: Path) -> None:
    with pytest.raises(ValueError, match=r"net\.safetensors"):
        parse_tracker(f"{models}/net.safetensors").build()


def test_models_of_nano_in_the_wrong_order_are_told(real_data: Path) -> None:
    head, backbone = peers(real_data, "nano2_head.onnx", "nano2_backbone.onnx")
    with pytest.raises(ValueError, match=r"cannot use .*nano2_head.* as BACKBONE,NECKHEAD \("):
        OpenCVSpec("Nano", (head, backbone), tracker="Nano").build()


def test_nano_follows_a_target(real_data: Path) -> None:
    files = peers(real_data, "nano2_backbone.onnx", "nano2_head.onnx")
    tracker = OpenCVSpec("Nano", tuple(files), tracker="Nano").build()
    runs = [follow(tracker) for _ in range(2)]
    assert runs[0][1] > 0.6
    assert (runs[0][0] == runs[1][0]).all()


def test_constants_are_read_for_the_network_that_they_are_of(tmp_path: Path) -> None:
    weights, constants = tmp_path / "net.safetensors", tmp_path / "own.yaml"
    save_weights(build("rbsf2", channels=[32, 32, 32], depths=[1, 1, 1]), "rbsf2", weights)
    constants.write_text("size_rate: 0.5\n")
    flags = ["--dataset", "synthetic", "--constants", str(constants), "--tracker"]
    (spec,) = run_benchmarks.read_specs(run_benchmarks.parse_args([*flags, str(weights)]))
    assert spec.config == AnchorFreeConfig(size_rate=0.5)
    assert spec.constants == "own.yaml"
    with pytest.raises(ValueError, match=r"own.yaml: has constants of the tracker rbsf2, which"):
        run_benchmarks.read_specs(run_benchmarks.parse_args([*flags, "rbsf"]))


def test_constants_choose_the_tracker_if_none_is_named(tmp_path: Path) -> None:
    def chosen(*flags: str) -> list[str]:
        args = run_benchmarks.parse_args(["--dataset", "synthetic", *flags])
        return [spec.label for spec in run_benchmarks.read_specs(args)]

    own = tmp_path / "own.yaml"
    own.write_text("size_rate: 0.5\n")
    assert chosen() == chosen("--constants", str(own)) == [DEFAULT]
    assert chosen("--constants", "fast") == ["rbsf"]
    assert chosen("--annotations", str(tmp_path)) == []


def test_bad_constants_are_those_of_the_tracker_that_has_most_of_them(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    for text, fault in (
        ("scale_step: 0.5", "scale_step=0.5: give a factor above 1"),
        ("scale_stpe: 1.1\nscale_penalty: 0.9", "did you mean 'scale_step'"),
        ("size_rate: 5", "size_rate=5.0: give a number from 0 to 1"),
        ("colour: red", "unknown setting 'colour'; known: sure_score, "),
        ("[1, 2]", "expected settings as `name: value`, found a list"),
    ):
        own.write_text(text)
        args = run_benchmarks.parse_args(["--dataset", "synthetic", "--constants", str(own)])
        with pytest.raises(ValueError, match=re.escape(fault)):
            run_benchmarks.read_specs(args)
