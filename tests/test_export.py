"""Export: thresholds by hand, packed against torch to the bit, refusals, ONNX, and tracking without torch."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT
from torch import nn

from datasets.synthetic import make_sequence, write_video
from rbsf.engine import reference
from rbsf.engine.packed import PackedModel, read_packed
from rbsf.engine.runtime import BitConv, Engine, pack_signs
from rbsf.export import _Affine, _fold, export_conv, export_layers, pack_weights, quantise_first, torch_outputs
from rbsf.layers import binarize
from rbsf.methods.rbcn import RBConv2d
from rbsf.models import build
from rbsf.models.alexnet import AlexNet, ConvBlock
from rbsf.weights import load_weights, save_weights
from tools.export import main
from tracker.backbones import choose_engine, is_packed, load_backbone
from tracker.siamfc import SiamFC

LOW, HIGH = -(2**31), 2**31 - 1
TRAINED = ROOT / "weights" / "rbsf-train.safetensors"
SIZE = 87  # pixels: the smallest crop that leaves one feature


def crops(count=2, size=SIZE, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def settle(net, seed=0):
    """Batch-norms of any sign and place, statistics of real maps, in float64: no sum is near a threshold by chance."""
    torch.manual_seed(seed)
    net = net.double().train()
    with torch.no_grad():
        net(torch.from_numpy(crops(4, 127)).permute(0, 3, 1, 2).double())
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 1.0
                module.weight.copy_(torch.randn_like(module.weight))
                module.weight[::7] = 0
                module.bias.copy_(torch.randn_like(module.bias))
        net(torch.from_numpy(crops(4, 127)).permute(0, 3, 1, 2).double())
    quantise_first(net)
    return net.eval()


def packed_outputs(net, images):
    return list(reference.layer_outputs(PackedModel("net", tuple(export_layers(net)), {}), images))


# ---- folding


@pytest.mark.parametrize(
    ("scale", "bias", "threshold", "negated"),
    [
        (2.0, -3.0, 2, False),  # 2 x >= 3 from x = 2
        (2.0, -4.0, 2, False),  # at the threshold itself the bit is 1
        (2.0, 5.0, -2, False),
        (-2.0, 5.0, -2, True),  # -2 x + 5 >= 0 up to x = 2, so for -x >= -2
        (-2.0, 4.0, -2, True),
        (0.0, 0.0, LOW, False),  # constant +1
        (0.0, -1.0, HIGH, False),
        (1e-9, -1e9, HIGH, False),
        (1e-9, 1e9, LOW, False),
    ],
)
def test_threshold_of_a_channel(scale, bias, threshold, negated):
    one = _Affine(np.ones(1), np.zeros(1))
    got = _fold(_Affine(np.array([scale]), np.array([bias])), one, np.array([False]))
    assert ([*got[0]], [*got[1]]) == ([threshold], [negated])


@pytest.mark.parametrize(
    ("outer", "threshold", "negated"),
    [
        ((1.0, 0.0), 3, False),  # -max(x) + 2 >= 0 unless some x >= 3
        ((-1.0, 0.0), 3, True),
        ((1.0, 0.5), 2, False),  # x + 0.5 <= 2 up to x = 1
    ],
)
def test_threshold_of_a_channel_whose_sign_turns_round_after_pooling(outer, threshold, negated):
    first, second = _Affine(*np.array(outer)[:, None]), _Affine(np.array([-1.0]), np.array([2.0]))
    got = _fold(first, second, np.array([True]))
    assert ([*got[0]], [*got[1]]) == ([threshold], [negated])


def test_first_layer_is_rounded_per_filter():
    net = build("rbsf")
    conv = net.layers[0].conv
    conv.weight.data.zero_()
    conv.weight.data[0, 0, 0, :4] = torch.tensor([6.3, -0.26, 0.04, -6.3])
    conv.weight.data[1, 0, 0, :2] = torch.tensor([-630.0, 15.0])
    quantise_first(net)
    torch.testing.assert_close(conv.weight[0, 0, 0, :4], torch.tensor([6.3, -0.3, 0.0, -6.3]))
    torch.testing.assert_close(conv.weight[1, 0, 0, :2], torch.tensor([-630.0, 20.0]))
    assert not conv.weight[2].any()
    first = export_layers(net)[0]
    assert first.weight.dtype == np.int8
    assert first.weight[0, 0, :4, 0].tolist() == [63, -3, 0, -63]
    assert first.weight[1, 0, :2, 0].tolist() == [-63, 2]


# ---- packed against torch


@pytest.mark.parametrize("model", ["rbsf", "xnor"])
def test_every_bit_is_that_of_torch(model):
    net = settle(build(model))
    images = crops()
    *bits, features = packed_outputs(net, images)
    *expected, real = torch_outputs(net, images)
    assert [b.shape[1:] for b in bits] == [(96, 19, 19), (256, 7, 7), (384, 5, 5), (384, 3, 3)]
    for got, wanted in zip(bits, expected, strict=True):
        assert 0.1 < got.mean() < 0.9
        np.testing.assert_array_equal(got, wanted)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, real, rtol=1e-4, atol=1e-4)
    (bias,) = {layer.kind for layer in export_layers(net)} - {"conv_u8", "conv_bits"}
    assert bias == "conv_bits_real"


def test_a_network_without_norms_in_front_of_the_sign():
    net = AlexNet(for_binary=True)
    binarize(net, "xnor", input_norm=False)
    net = settle(net, seed=1)
    *bits, _ = packed_outputs(net, crops(1))
    *expected, _ = torch_outputs(net, crops(1))
    for got, wanted in zip(bits, expected, strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_a_single_convolution_gives_the_sums_of_torch():
    torch.manual_seed(0)
    conv = RBConv2d(24, 16, 3, stride=2, padding=1, groups=2)
    x = torch.randn(2, 24, 9, 8)
    layer = export_conv("conv", conv)
    sums = BitConv(layer)(pack_signs(x.permute(0, 2, 3, 1).numpy(), 2))
    expected = (conv(x) / conv.scale()[0]).round()
    np.testing.assert_array_equal(sums.transpose(0, 3, 1, 2), expected.detach().numpy())


def test_the_packed_file_says_where_it_comes_from(tmp_path):
    torch.manual_seed(0)
    save_weights(build("xnor"), "xnor", tmp_path / "net.safetensors", {"config": {"seed": 3}})
    pack_weights(tmp_path / "net.safetensors", tmp_path / "net-packed.safetensors")
    model = read_packed(tmp_path / "net-packed.safetensors")
    assert (model.model, model.info["config"], model.info["source"]) == ("xnor", {"seed": 3}, "net.safetensors")
    assert (tmp_path / "net-packed.safetensors").stat().st_size < 450_000


# ---- refusals


def stride_two_pool(net):
    net.layers[1].pool = nn.MaxPool2d(2, 2)


def relu(net):
    net.layers[2].relu = nn.ReLU()


def real_layer(net):
    net.layers[3].conv = nn.Conv2d(384, 384, 3, groups=2)


def dilation(net):
    net.layers[4].conv.dilation = (2, 2)


def first_padded(net):
    net.layers[0].conv.padding = (1, 1)


def last_pooled(net):
    net.layers[4].pool = nn.MaxPool2d(3, 2)


def turned_and_padded(net):
    net.layers[1].conv.padding = (1, 1)
    net.layers[1].conv.norm.weight.data[5] = -1


def stray(net):
    net.extra = nn.Conv2d(3, 3, 1)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (stride_two_pool, "layer layers.1 is pooled by MaxPool2d"),
        (relu, "layer layers.2 has a ReLU"),
        (real_layer, "layer layers.3 is not the first and has a real convolution"),
        (dilation, "layer layers.4 has kernel .* dilation"),
        (first_padded, "layer layers.0 is the first and has padding"),
        (last_pooled, "layer layers.4 is the last and pooled"),
        (turned_and_padded, "layer layers.0 is pooled before a negative batch-norm and a padded convolution"),
        (stray, "extra is no block"),
    ],
)
def test_what_has_no_packed_form_is_named(damage, message):
    net = build("rbsf")
    damage(net)
    with pytest.raises(ValueError, match=message):
        export_layers(net)


def test_float_and_binary_first_layers_are_refused():
    with pytest.raises(ValueError, match="no binary convolution"):
        export_layers(build("siamfc"))
    with pytest.raises(ValueError, match="is no block of SiamFC's AlexNet"):
        export_layers(nn.Sequential(nn.Linear(2, 2)))
    net = build("rbsf")
    net.layers[0].conv = RBConv2d(3, 96, 11, 2)
    with pytest.raises(ValueError, match=r"layers.0 is the first and binary"):
        export_layers(net)
    assert isinstance(net.layers[0], ConvBlock)


# ---- engines


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A 1-bit network, its packed form, and a float network."""
    folder = tmp_path_factory.mktemp("files")
    net, _, _ = load_weights(TRAINED)
    save_weights(net, "rbsf", folder / "net.safetensors")
    pack_weights(folder / "net.safetensors", folder / "net-packed.safetensors")
    save_weights(build("siamfc"), "siamfc", folder / "float.safetensors")
    return folder


def test_engine_and_file_are_chosen(files):
    net, packed, real = (files / f"{name}.safetensors" for name in ("net", "net-packed", "float"))
    assert [is_packed(path) for path in (net, packed, real, files / "none")] == [False, True, False, False]
    assert choose_engine(packed) == choose_engine(packed, "packed") == (packed, "packed")
    assert choose_engine(packed, "torch") == (net, "torch")
    assert choose_engine(net) == (net, "torch")
    assert choose_engine(ROOT / "weights/rbsf.safetensors", "torch") == (TRAINED, "torch")
    with pytest.raises(ValueError, match="engine 'fast': give one of auto, packed, torch"):
        choose_engine(net, "fast")


def test_torch_needs_the_network_that_was_packed(files, tmp_path):
    packed = tmp_path / "other-packed.safetensors"
    packed.write_bytes((files / "net-packed.safetensors").read_bytes())
    with pytest.raises(ValueError, match=r"other.safetensors, which is not there"):
        choose_engine(packed, "torch")
    (tmp_path / "other.safetensors").write_bytes((files / "float.safetensors").read_bytes())
    with pytest.raises(ValueError, match=r"other.safetensors is not what .*other-packed.safetensors was exported from"):
        choose_engine(packed, "torch")


def test_weights_are_packed_on_loading(files):
    loaded = load_backbone(files / "net.safetensors", engine="packed", threads=1)
    assert isinstance(loaded, Engine)
    images = crops(1)
    np.testing.assert_array_equal(loaded(images), load_backbone(files / "net-packed.safetensors")(images))
    with pytest.raises(ValueError, match=r"float.safetensors: .* no binary convolution.*leave out --engine packed"):
        load_backbone(files / "float.safetensors", engine="packed")


def test_the_packed_engine_runs_on_the_cpu_alone(files):
    for device in ("auto", "cpu"):
        load_backbone(files / "net-packed.safetensors", device)
    with pytest.raises(ValueError, match="device 'cuda': the packed engine runs on the CPU; add --engine torch"):
        load_backbone(files / "net-packed.safetensors", "cuda")


def test_a_packed_file_is_no_weights_file(files):
    with pytest.raises(ValueError, match="packed, which runs but does not train"):
        load_weights(files / "net-packed.safetensors")


def test_boxes_of_a_made_video(files):
    frames = list(make_sequence(5, frames=8))
    boxes = {}
    for engine in ("packed", "torch"):
        backbone = load_backbone(files / "net-packed.safetensors", "cpu", engine=engine, threads=1)
        tracker = SiamFC(backbone)
        tracker.init(frames[0][0], frames[0][1])
        boxes[engine] = [tracker.update(image).box for image, _ in frames[1:]]
    np.testing.assert_allclose(boxes["packed"], boxes["torch"], atol=0.1)


def test_tracking_with_a_packed_file_imports_no_torch(tmp_path):
    write_video(tmp_path / "in.mp4", seed=3, frames=3)
    program = (
        "import sys; from tools.track import main;"
        "code = main(['--video', 'in.mp4', '--init', '120,80,40,60', '--threads', '1']);"
        "assert 'torch' not in sys.modules, 'torch was imported'; sys.exit(code)"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "in_tracked.mp4").is_file()


# ---- the program


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


@pytest.mark.parametrize("model", ["rbsf", "siamfc"])
def test_onnx_graphs_equal_torch(model, tmp_path, capsys):
    onnxruntime = pytest.importorskip("onnxruntime")
    weights = TRAINED
    if model == "siamfc":
        torch.manual_seed(0)
        weights = tmp_path / "float.safetensors"
        save_weights(build("siamfc"), model, weights)
    write_video(tmp_path / "in.mp4", seed=3, frames=2)
    flags = ["--format", "onnx", "--check", str(tmp_path / "in.mp4")]
    main(["--weights", str(weights), "--out", str(tmp_path / "net.onnx"), *flags])
    assert "response: largest difference to PyTorch" in capsys.readouterr().out
    images = crops(2, 127)
    pixels = images.transpose(0, 3, 1, 2).astype(np.float32)
    (features,) = onnxruntime.InferenceSession(tmp_path / "net_backbone.onnx").run(None, {"image": pixels})
    np.testing.assert_allclose(features, load_backbone(weights, "cpu")(images), rtol=1e-3, atol=1e-3)
    head = onnxruntime.InferenceSession(tmp_path / "net_head.onnx")
    template, scene = np.ones((1, 256, 2, 2), np.float32), np.ones((3, 256, 4, 5), np.float32)
    (response,) = head.run(None, {"template": template, "features": scene})
    assert response.shape == (3, 1, 3, 4)
    assert (response == 1024).all()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--out", "x.onnx"], "a file of --format packed ends in .safetensors"),
        (["--out", "x.safetensors", "--format", "onnx"], "a file of --format onnx ends in .onnx"),
        (["--out", str(TRAINED)], "is the input itself"),
        (["--out", "x.safetensors", "--check", "none.mp4"], "none.mp4"),
    ],
)
def test_tool_refuses(flags, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, OSError), match=message):
        main(["--weights", str(TRAINED), *flags])
    assert not list(tmp_path.iterdir())
