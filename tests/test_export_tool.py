"""tools/export.py: packed files and ONNX graphs, each compared with PyTorch."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from conftest import ROOT
from requirements import needs

from datasets.synthetic import write_video
from rbsf.engine.nodes import read_network
from rbsf.models import build
from rbsf.weights import save_weights
from tools.export import main
from tracker.backbones import is_packed, load_backbone

TRAINED = ROOT / "weights" / "rbsf-train.safetensors"


def test_tool_writes_a_packed_file_and_compares_it(tmp_path, capsys):
    out = tmp_path / "new" / "rbsf-packed.safetensors"
    write_video(tmp_path / "in.mp4", seed=3, frames=2)
    main(["--weights", str(TRAINED), "--out", str(out), "--check", str(tmp_path / "in.mp4")])
    text = capsys.readouterr().out
    assert "9,330,816 as float32: 28." in text
    sizes = (2 * 96 * 61 * 61, 2 * 256 * 28 * 28, 2 * 384 * 26 * 26, 2 * 384 * 24 * 24)
    for number, size in enumerate(sizes):
        (line,) = (line for line in text.splitlines() if f"after layers.{number}.conv" in line)
        assert line.endswith(f", 0 of {size:,}"), "the packed network is the torch one in float64"
    assert is_packed(out)


def test_tool_says_how_far_the_rounded_network_is_from_the_weights_as_given(tmp_path, capsys):
    """The shipped weights are rounded to 7 bits already."""
    write_video(tmp_path / "in.mp4", seed=3, frames=2)
    found = {}
    for bits in (2, 7):
        flags = ["--first-bits", str(bits), "--check", str(tmp_path / "in.mp4")]
        main(["--weights", str(TRAINED), "--out", str(tmp_path / "out.safetensors"), *flags])
        line = capsys.readouterr().out.splitlines()[-1]
        words = re.match(
            r"to the weights as given: (\S+)% of .* differ by \S+ of \S+ at most, correlation (\S+)$", line
        )
        found[bits] = [float(word) for word in words.groups()]
    assert found[2][0] > 0.1 > found[7][0] == 0
    assert found[2][1] < 0.99 < 0.9999 < found[7][1] <= 1


@pytest.mark.parametrize("model", ["rbsf", "siamfc"])
def test_onnx_graphs_equal_torch(model, tmp_path, capsys):
    onnxruntime = pytest.importorskip("onnxruntime", reason=needs("onnxruntime", "it is not installed"))
    weights = TRAINED
    if model == "siamfc":
        torch.manual_seed(0)
        weights = tmp_path / "float.safetensors"
        save_weights(build("siamfc"), model, weights)
    write_video(tmp_path / "in.mp4", seed=3, frames=2)
    flags = ["--format", "onnx", "--check", str(tmp_path / "in.mp4")]
    main(["--weights", str(weights), "--out", str(tmp_path / "net.onnx"), *flags])
    assert "response: largest difference to PyTorch" in capsys.readouterr().out
    images = np.random.default_rng(0).integers(0, 256, (2, 127, 127, 3), dtype=np.uint8)
    pixels = images.transpose(0, 3, 1, 2).astype(np.float32)
    (features,) = onnxruntime.InferenceSession(tmp_path / "net_backbone.onnx").run(None, {"image": pixels})
    np.testing.assert_allclose(features, load_backbone(weights, "cpu")(images), rtol=1e-3, atol=1e-3)
    head = onnxruntime.InferenceSession(tmp_path / "net_head.onnx")
    template, scene = np.ones((1, 256, 2, 2), np.float32), np.ones((3, 256, 4, 5), np.float32)
    (response,) = head.run(None, {"template": template, "features": scene})
    assert response.shape == (3, 1, 3, 4)
    assert (response == 1024).all()


@pytest.mark.parametrize(("model", "channels"), [("resnet18", 3), ("lenet", 1)])
def test_classifiers_in_both_formats(model, channels, tmp_path, capsys):
    pytest.importorskip("onnxruntime", reason=needs("onnxruntime", "it is not installed"))
    torch.manual_seed(0)
    options = {"stages": "8-8-16-16", "stem": "cifar"} if model == "resnet18" else {}
    images = {"size": 28, "mean": [0.5] * channels, "std": [0.25] * channels, "classes": [*"0123456789"]}
    net, weights = build(model, method="rbcn", classes=10, **options), tmp_path / "net.safetensors"
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # fresh ones put thresholds at sums of 0, which PyTorch rounds
            torch.nn.init.normal_(module.bias)
    save_weights(net, model, weights, {"input": images})
    main(["--weights", str(weights), "--out", str(tmp_path / "packed.safetensors")])
    text = capsys.readouterr().out
    assert "times smaller" in text
    assert "bits that differ: 0 of" in text
    assert "predictions that differ: 0" in text
    packed = read_network(tmp_path / "packed.safetensors")
    assert packed.shapes["image"] == (28, 28, channels)
    assert packed.info["source"] == "net.safetensors"
    main(["--weights", str(weights), "--format", "onnx", "--out", str(tmp_path / "net.onnx")])
    assert "logits: largest difference to PyTorch" in capsys.readouterr().out
    assert (tmp_path / "net.onnx").is_file()


def test_classifier_that_says_nothing_of_its_images(tmp_path):
    save_weights(build("lenet", method="rbcn"), "lenet", tmp_path / "net.safetensors")
    with pytest.raises(ValueError, match="its info has no input"):
        main(["--weights", str(tmp_path / "net.safetensors"), "--out", str(tmp_path / "packed.safetensors")])
    assert not (tmp_path / "packed.safetensors").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--out", "x.onnx"], "a file of --format packed ends in .safetensors"),
        (["--out", "x.safetensors", "--format", "onnx"], "a file of --format onnx ends in .onnx"),
        (["--out", str(TRAINED)], "is the input itself"),
        (["--out", "x.onnx", "--format", "onnx", "--first-bits", "4"], "--first-bits is for packed files of trackers"),
        (["--out", "x.safetensors", "--check", "none.mp4"], "none.mp4"),
    ],
)
def test_tool_refuses(flags, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, OSError), match=message):
        main(["--weights", str(TRAINED), *flags])
    assert not list(tmp_path.iterdir())
