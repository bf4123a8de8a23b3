"""tools/export.py: packed files and ONNX graphs, each compared with PyTorch."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from conftest import ROOT
from requirements import needs

from rbsf.datasets.synthetic.videos import write_video
from rbsf.engine.file import read_packed
from rbsf.export import fold
from rbsf.models import build
from rbsf.tools.export import main
from rbsf.tracker.engines import is_packed
from rbsf.tracker.loading import load_network
from rbsf.weights import save_weights

TRAINED = ROOT / "weights" / "rbsf-train.safetensors"
DIFFERENCE = r"results differ by (\S+) of (\S+) at most"


def test_tool_writes_a_packed_file_and_compares_it(tmp_path, capsys):
    out = tmp_path / "new" / "rbsf-packed.safetensors"
    write_video(tmp_path / "in.mp4", seed=3, frames=2)
    main(["--weights", str(TRAINED), "--out", str(out), "--check", str(tmp_path / "in.mp4")])
    size, nodes, engine, given = capsys.readouterr().out.splitlines()
    assert size.startswith(f"{out}: {out.stat().st_size:,} bytes; 9,330,816 as float32: 28.")
    bits = 2 * (96 * 61 * 61 + 256 * 28 * 28 + 384 * 26 * 26 + 384 * 24 * 24)
    assert nodes.startswith(
        "compared with the rounded network in float64, operation by operation: "
    )
    assert f": 0 of {bits:,} bits differ, 0 of them at their threshold; real values by " in nodes
    for line, start in (
        (engine, r"\S+ engine compared with PyTorch in float32"),
        (given, "compared with the given weights"),
    ):
        assert re.fullmatch(rf"{start}: {DIFFERENCE}, correlation (1\.0000|0\.999\d)", line)
    assert is_packed(out)


def test_tool_says_how_far_the_rounded_network_is_from_the_weights_as_given(tmp_path, capsys):
    """The shipped weights are rounded to 7 bits already, so it is not far at all."""
    write_video(tmp_path / "in.mp4", seed=3, frames=2)
    found = {}
    for bits in (2, 7):
        flags = ["--first-bits", str(bits), "--check", str(tmp_path / "in.mp4")]
        main(["--weights", str(TRAINED), "--out", str(tmp_path / "out.safetensors"), *flags])
        line = capsys.readouterr().out.splitlines()[-1]
        words = re.fullmatch(
            rf"compared with the given weights: {DIFFERENCE}, correlation (\S+)", line
        )
        difference, largest, correlation = (float(word) for word in words.groups())
        found[bits] = difference / largest, correlation
    assert found[2][0] > 0.1 > 1e-5 > found[7][0]
    assert found[2][1] < 0.99 < 0.9999 < found[7][1] <= 1


def test_tool_writes_no_file_that_would_compute_something_else(tmp_path, monkeypatch):
    monkeypatch.setattr(
        fold,
        "threshold_of_whole",
        lambda scale, bias: {"threshold": np.zeros(len(scale), np.int32)},
    )
    place = r"at layers\.1\.conv\.sign\.0"
    message = (
        rf"out\.safetensors was not written: .* differs from the rounded one in float64 {place}"
    )
    with pytest.raises(ValueError, match=message):
        main(["--weights", str(TRAINED), "--out", str(tmp_path / "out.safetensors")])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("model", ["rbsf", "siamfc"])
def test_onnx_graphs_equal_torch(model, tmp_path, capsys):
    onnxruntime = pytest.importorskip(
        "onnxruntime", reason=needs("onnxruntime", "it is not installed")
    )
    weights = TRAINED
    if model == "siamfc":
        torch.manual_seed(0)
        weights = tmp_path / "float.safetensors"
        save_weights(build("siamfc"), model, weights)
    write_video(tmp_path / "in.mp4", seed=3, frames=2)
    flags = ["--format", "onnx", "--check", str(tmp_path / "in.mp4")]
    main(["--weights", str(weights), "--out", str(tmp_path / "net.onnx"), *flags])
    said = capsys.readouterr().out.splitlines()
    for part, size, line in zip(("backbone", "head"), said[::2], said[1::2], strict=True):
        path = tmp_path / f"net_{part}.onnx"
        assert size == f"{path}: {path.stat().st_size:,} bytes"
        result = {"backbone": "features", "head": "response"}[part]
        assert re.fullmatch(rf"{result} to PyTorch: {DIFFERENCE}, correlation 1\.0000", line)
    images = np.random.default_rng(0).integers(0, 256, (2, 127, 127, 3), dtype=np.uint8)
    pixels = images.transpose(0, 3, 1, 2).astype(np.float32)
    (features,) = onnxruntime.InferenceSession(tmp_path / "net_backbone.onnx").run(
        None, {"image": pixels}
    )
    np.testing.assert_allclose(features, load_network(weights, "cpu")(images), rtol=1e-3, atol=1e-3)
    head = onnxruntime.InferenceSession(tmp_path / "net_head.onnx")
    template, scene = np.ones((1, 256, 2, 2), np.float32), np.ones((3, 256, 4, 5), np.float32)
    (response,) = head.run(None, {"template": template, "features": scene})
    assert response.shape == (3, 1, 3, 4)
    assert (response == 1024).all()


@pytest.mark.parametrize(("model", "channels"), [("resnet18", 3), ("lenet", 1)])
def test_classifiers_are_written_in_both_formats(model, channels, tmp_path, capsys):
    pytest.importorskip("onnxruntime", reason=needs("onnxruntime", "it is not installed"))
    torch.manual_seed(0)
    options = {"stages": "8-8-16-16", "stem": "cifar"} if model == "resnet18" else {}
    images = {
        "size": 28,
        "mean": [0.5] * channels,
        "std": [0.25] * channels,
        "classes": [*"0123456789"],
    }
    net, weights = build(model, method="rbcn", classes=10, **options), tmp_path / "net.safetensors"
    for module in net.modules():
        # New norms put thresholds at sums of 0, which PyTorch rounds.
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.bias)
    save_weights(net, model, weights, {"input": images})
    main(["--weights", str(weights), "--out", str(tmp_path / "packed.safetensors")])
    text = capsys.readouterr().out
    assert "times smaller" in text
    assert re.search(
        r"operation by operation: 0 of [\d,]+ bits differ, 0 of them at their threshold; real", text
    )
    assert re.search(
        rf"\S+ engine compared with PyTorch in float32: {DIFFERENCE}, predictions that differ: 0\n",
        text,
    )
    assert re.search(r"operations without a kernel, which run in NumPy: affine(, \w+)*\n$", text)
    packed = read_packed(tmp_path / "packed.safetensors")
    assert (packed.input_shape, packed.task) == ((28, 28, channels), "classifier")
    assert packed.info["source"] == "net.safetensors"
    main(["--weights", str(weights), "--format", "onnx", "--out", str(tmp_path / "net.onnx")])
    assert re.search(
        rf"\nlogits to PyTorch: {DIFFERENCE}, predictions that differ: 0\n$",
        capsys.readouterr().out,
    )
    assert (tmp_path / "net.onnx").is_file()


def test_a_classifier_that_says_nothing_of_its_images_is_refused(tmp_path):
    weights, packed = tmp_path / "net.safetensors", tmp_path / "packed.safetensors"
    save_weights(build("lenet", method="rbcn"), "lenet", weights)
    with pytest.raises(ValueError, match="its info has no input"):
        main(["--weights", str(weights), "--out", str(packed)])
    assert not packed.exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--out", "x.onnx"], "a file of --format packed ends in .safetensors"),
        (["--out", "x.safetensors", "--format", "onnx"], "a file of --format onnx ends in .onnx"),
        (["--out", str(TRAINED)], "is the input itself"),
        (
            ["--out", "x.onnx", "--format", "onnx", "--first-bits", "4"],
            "--first-bits is for packed files",
        ),
        (["--out", "x.safetensors", "--check", "none.mp4"], "none.mp4"),
    ],
)
def test_tool_refuses_what_it_cannot_export(flags, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, OSError), match=message):
        main(["--weights", str(TRAINED), *flags])
    assert not list(tmp_path.iterdir())
