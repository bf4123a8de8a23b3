"""tools/onnx_runner.py tracks as the packed engine does, with nothing but the ONNX files."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import ROOT
from requirements import needs
from test_rbsf2 import SMALL, trained

from rbsf.datasets.synthetic.videos import make_sequence, write_video
from rbsf.models import build
from rbsf.shipped import find_constants
from rbsf.tools.export import main as export
from rbsf.tracker.anchor_free import AnchorFree, AnchorFreeConfig
from rbsf.tracker.flags import read_constants
from rbsf.tracker.loading import load_network
from rbsf.tracker.rbsf2 import PackedNetwork
from rbsf.tracker.siamfc import SiamFC, TrackerConfig
from rbsf.weights import save_weights

pytest.importorskip("onnxruntime", reason=needs("onnxruntime", "it is not installed"))

from rbsf.tools import onnx_runner
from rbsf.tools.onnx_runner import HeadTracker, ResponseTracker, open_tracker, read_maps

RUNNER = ROOT / "tools" / "onnx_runner.py"
GUIDE = ROOT / "docs" / "guide" / "onnx.md"
FRAMES = [image for image, _ in make_sequence(0, 12)]
BOX = (40, 30, 30, 24)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small RB-SF 2 with presence: its packed file and its graphs."""
    folder = tmp_path_factory.mktemp("onnx")
    torch.manual_seed(0)
    net = trained(build("rbsf2", presence=True, **SMALL))  # type: ignore[arg-type]
    save_weights(net, "rbsf2", folder / "net.safetensors")
    export_to(folder / "net.safetensors", folder / "net.onnx")
    write_video(folder / "in.mp4", seed=3, frames=4)
    return folder


def export_to(weights: Path, out: Path) -> None:
    export(["--weights", str(weights), "--out", str(out), "--format", "onnx"])


def test_it_imports_nothing_but_numpy_opencv_and_onnx_runtime() -> None:
    tree = ast.walk(ast.parse(RUNNER.read_text()))
    names = {alias.name for node in tree if isinstance(node, ast.Import) for alias in node.names}
    tree = ast.walk(ast.parse(RUNNER.read_text()))
    names |= {str(node.module) for node in tree if isinstance(node, ast.ImportFrom)}
    assert names - sys.stdlib_module_names - {"collections.abc"} == {"cv2", "numpy", "onnxruntime"}


def test_class_map_and_sides_are_those_of_the_packed_engine(folder: Path) -> None:
    tracker = open_tracker(folder / "net_backbone.onnx", folder / "net_head.onnx")
    packed = load_network(folder / "net.safetensors", engine="packed", threads=1)
    assert isinstance(tracker, HeadTracker)
    assert isinstance(packed, PackedNetwork)
    exemplar = np.ascontiguousarray(FRAMES[0][:127, :127])
    region = cv2.resize(FRAMES[1], (255, 255))
    template, features = (tracker.network.features(crop[None]) for crop in (exemplar, region))
    maps = tracker.network.maps(template, features)[0]
    expected = packed.answer(packed.learn(exemplar), region)
    target, sides = read_maps(maps)
    assert len(maps) == 6  # with presence, which the tracker does not use
    np.testing.assert_array_equal(target, expected.target)
    np.testing.assert_array_equal(sides, expected.sides)
    assert target.std() > 0.01


@pytest.mark.parametrize("limits", [{}, {"faint_score": 0.42, "sure_score": 0.46}])
def test_boxes_of_rbsf2_are_those_of_the_packed_engine(
    limits: dict[str, float], folder: Path
) -> None:
    packed = load_network(folder / "net.safetensors", engine="packed", threads=1)
    chosen = {"score_shift": 0.1, "size_rate": 0.3} | limits
    other = AnchorFree(packed, AnchorFreeConfig(redetect="off", **chosen))  # type: ignore[arg-type]
    tracker = open_tracker(folder / "net_backbone.onnx", folder / "net_head.onnx")
    tracker.constants |= chosen
    tracker.init(FRAMES[0], BOX)
    other.init(FRAMES[0], BOX)
    boxes, scores = [], []
    for frame in FRAMES[1:]:
        result = other.update(frame)
        box, score = tracker.update(frame)
        np.testing.assert_allclose(box, result.box, atol=1e-9)
        assert score == pytest.approx(result.score, abs=1e-12)
        boxes.append(box)
        scores.append(score)
    if limits:
        assert min(scores) < limits["faint_score"] < limits["sure_score"] < max(scores), scores
    else:
        assert np.ptp(boxes, axis=0).min() > 1  # all of x, y, w, h change


def test_a_file_older_than_means_of_middles_tracks_without_them(folder: Path) -> None:
    packed = load_network(folder / "net.safetensors", engine="packed", threads=1)
    before = AnchorFreeConfig(redetect="off", middle_reach=0.0, steadiness=0.0, faint_score=0.0)
    other = AnchorFree(packed, before)
    tracker = open_tracker(folder / "net_backbone.onnx", folder / "net_head.onnx")
    del tracker.constants["middle_reach"], tracker.constants["steadiness"]
    tracker.constants["faint_score"] = 0.0
    tracker.init(FRAMES[0], BOX)
    other.init(FRAMES[0], BOX)
    for frame in FRAMES[1:]:
        np.testing.assert_allclose(tracker.update(frame)[0], other.update(frame).box, atol=1e-9)


@pytest.mark.slow
def test_boxes_of_rbsf_are_those_of_the_packed_engine_as_published(tmp_path: Path) -> None:
    export_to(ROOT / "weights" / "rbsf-train.safetensors", tmp_path / "net.onnx")
    tracker = open_tracker(tmp_path / "net_backbone.onnx", tmp_path / "net_head.onnx")
    assert isinstance(tracker, ResponseTracker)
    constants = read_constants(find_constants("siamfc"), TrackerConfig)
    other = SiamFC(load_network(ROOT / "weights" / "rbsf.safetensors", threads=1), constants)  # type: ignore[arg-type]
    video = list(make_sequence(3, 5))
    for each in (tracker, other):
        each.init(video[0][0], video[0][1])
    for frame, _ in video[1:]:
        result = other.update(frame)
        box, score = tracker.update(frame)
        np.testing.assert_allclose(box, result.box, atol=0.01)
        assert score == pytest.approx(result.score, abs=1e-4)
    assert not np.allclose(box, video[0][1], atol=1)


def test_a_copy_of_the_program_writes_boxes(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "mine.py"
    copy.write_text(RUNNER.read_text())
    pair = ["--backbone", folder / "net_backbone.onnx", "--head", folder / "net_head.onnx"]
    command = [sys.executable, copy, *pair, "--video", folder / "in.mp4", "--init", "40,30,30,24"]
    boxes = tmp_path / "boxes.csv"
    subprocess.run([*command, "--boxes", boxes], check=True, cwd=tmp_path)
    head, first, *others = boxes.read_text().splitlines()
    assert (head, first) == ("frame,x,y,w,h,score", "0,40,30,30,24,1")
    tracker = open_tracker(folder / "net_backbone.onnx", folder / "net_head.onnx")
    own = onnx_runner.rows(tracker, onnx_runner.frames(str(folder / "in.mp4")), BOX)
    assert others == list(own)[2:]
    assert len(others) == 3
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"--backbone": "none.onnx"}, "no file none.onnx"),
        ({"--backbone": "net_head.onnx"}, "net_head.onnx: no backbone of a tracker"),
        ({"--head": "text.onnx"}, "text.onnx: ONNX Runtime cannot read it"),
        ({"--head": "other.onnx"}, "are not of one tracker"),
        ({"--init": "1,2,0,4"}, "give x,y,w,h in pixels, with w and h above 0"),
        ({"--init": "900,2,5,4"}, "less than a pixel of it is in the image"),
        ({"--init": "a,2,5,4"}, "--init a,2,5,4: give X,Y,W,H in pixels"),
        ({"--boxes": "text.onnx", "--head": "text.onnx"}, "--boxes text.onnx: this file is read"),
        ({"--video": "text.onnx"}, "OpenCV reads no image from it"),
    ],
)
def test_mistakes_are_named_in_one_line(
    flags: dict[str, str], message: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnx

    monkeypatch.chdir(folder)
    Path("text.onnx").write_text("no graph")
    other = onnx.load("net_head.onnx")
    onnx.helper.set_model_props(
        other,
        onnx_runner._about(onnx_runner._session("net_head.onnx", 1), "net_head.onnx", "head")
        | {"model": "rbsf"},
    )
    onnx.save(other, "other.onnx")
    given = {"--backbone": "net_backbone.onnx", "--head": "net_head.onnx", "--video": "in.mp4"}
    given |= {"--init": "40,30,30,24"} | flags
    with pytest.raises(SystemExit, match=re.escape(message)) as stopped:
        onnx_runner.main([word for pair in given.items() for word in pair])
    assert "\n" not in str(stopped.value)


def about(path: Path) -> dict[str, str]:
    import onnxruntime

    return onnxruntime.InferenceSession(path).get_modelmeta().custom_metadata_map


@pytest.mark.parametrize("end", [KeyboardInterrupt, ValueError])
def test_rows_so_far_are_kept(tmp_path: Path, end: type[BaseException]) -> None:
    def lines() -> Iterator[str]:
        yield "frame,x"
        yield "0,1"
        raise end

    with pytest.raises(end):
        onnx_runner.write_lines(tmp_path / "boxes.csv", lines())
    assert (tmp_path / "boxes.csv").read_text() == "frame,x\n0,1\n"
    assert [path.name for path in tmp_path.iterdir()] == ["boxes.csv"]


def test_files_of_a_tracker_say_how_they_are_used(folder: Path) -> None:
    backbone, head = about(folder / "net_backbone.onnx"), about(folder / "net_head.onnx")
    assert backbone["layout"] == "NCHW"
    assert (backbone["color_order"], backbone["stride"]) == ("RGB", "16")
    assert (backbone["exemplar_size"], backbone["search_size"]) == ("127", "255")
    constants, own = json.loads(head["constants"]), AnchorFreeConfig()
    assert constants.pop("smallest_size") == 10
    assert constants.pop("most_correction") == 2
    assert own == replace(own, **constants)
    assert constants["window_influence"] == own.window_influence
    assert "logs of the distances" in head["output"]


def test_the_guides_program_classes_a_photo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It names the class that the packed engine names."""
    from rbsf.tools.classify import main as classify

    torch.manual_seed(0)
    monkeypatch.chdir(tmp_path)
    classes = ["ant", "bee", "cat", "dog", "elk", "fox", "gnu", "hen", "ibex", "jay"]
    told = {"size": 32, "mean": [0.5] * 3, "std": [0.25] * 3, "classes": classes}
    net = trained_classifier()
    save_weights(net, "resnet18", "net.safetensors", {"input": told | {"share": 0.875}})
    export_to(Path("net.safetensors"), Path("net.onnx"))
    said = about(tmp_path / "net.onnx")
    assert (json.loads(said["classes"]), said["size"]) == (classes, "32")
    assert (json.loads(said["mean"]), said["color_order"]) == ([0.5] * 3, "RGB")
    write_photo(Path("photo.png"))
    capsys.readouterr()
    classify(["--weights", "net.safetensors", "--engine", "packed", "photo.png", "--top", "1"])
    expected = re.fullmatch(r"photo\.png: (\w+) ([\d.]+)%\n", capsys.readouterr().out)
    (program,) = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    exec(program.replace("lenet.onnx", "net.onnx").replace("photos/a.jpg", "photo.png"), {})
    name, share = capsys.readouterr().out.split()
    assert expected is not None
    assert name == expected[1]
    assert float(share) == pytest.approx(float(expected[2]) / 100, abs=0.02)


def trained_classifier() -> torch.nn.Module:
    net = build("resnet18", method="rbcn", classes=10, stages="8-8-16-16", stem="cifar")
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.bias)
    return net.eval()


def write_photo(path: Path) -> None:
    """A soft picture of 128 x 128 pixels."""
    coarse = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    cv2.imwrite(str(path), cv2.resize(coarse, (128, 128), interpolation=cv2.INTER_CUBIC))


def test_the_guide_is_short() -> None:
    assert len(GUIDE.read_text().split()) <= 400
