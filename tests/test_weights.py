"""Networks, and reading and writing their weights."""

from __future__ import annotations

import json
import math
import os
import pickle
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from requirements import case, needs
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from rbsf.export.pack import classifier_input
from rbsf.layers import binary_layers
from rbsf.methods import METHODS
from rbsf.models import TRACKERS, build
from rbsf.tracker.weights import read_weights
from rbsf.train.checkpoint import load_checkpoint
from rbsf.weights import digest, save_weights

CROP = torch.randint(0, 256, (2, 3, 127, 127), generator=torch.Generator().manual_seed(0)).float()


def trained(name):
    """A network all of whose tensors differ from those of a new one."""
    torch.manual_seed(3)
    net = build(name)
    net.train()(CROP)
    for parameter in net.parameters():
        parameter.data += 0.01 * torch.randn_like(parameter)
    return net.eval()


def save_signed(tensors, path, metadata):
    """Write a file whose checksum is right, whatever it holds."""
    save_file(tensors, path, metadata | {"sha256": digest(metadata, tensors)})


@pytest.mark.parametrize("name", TRACKERS)
def test_every_model_has_siamfcs_shape(name):
    net = build(name).eval()
    with torch.no_grad():
        assert net(CROP[:1]).shape == (1, 256, 6, 6)
        assert net(torch.zeros(1, 3, 255, 255)).shape == (1, 256, 22, 22)
    assert (
        sum(p.numel() for n, p in net.named_parameters() if n.endswith("conv.weight")) == 2_332_704
    )
    assert list(binary_layers(net)) == (
        [] if name == "siamfc" else [f"layers.{i}.conv" for i in (1, 2, 3, 4)]
    )


def test_exemplar_features_are_a_window_of_the_search_features():
    """There is no padding: the surroundings of a crop do not change its features."""
    net, image = trained("rbsf"), torch.rand(1, 3, 255, 255) * 255
    with torch.no_grad():
        inner, outer = net(image[..., 64:191, 64:191]), net(image)
    torch.testing.assert_close(inner, outer[..., 8:14, 8:14], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_biases_of_binary_convolutions_are_kept(method, tmp_path):
    torch.manual_seed(0)
    net = build("lenet", method=method).eval()
    layers = binary_layers(net).values()
    for layer in layers:
        layer.bias = torch.nn.Parameter(torch.randn(layer.out_channels))
    save_weights(net, "lenet", tmp_path / "net.safetensors")
    loaded, _, _ = read_weights(tmp_path / "net.safetensors")
    for layer, own in zip(binary_layers(loaded).values(), layers, strict=True):
        assert torch.equal(layer.bias, own.bias)
    images = torch.randn(2, 1, 28, 28)
    with torch.no_grad():
        torch.testing.assert_close(loaded(images), net(images), atol=1e-4, rtol=1e-4)


def test_a_bias_of_another_size_is_refused(tmp_path):
    path = tmp_path / "net.safetensors"
    net = build("lenet", method="xnor")
    save_weights(net, "lenet", path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    save_signed(load_file(path) | {"layers.1.conv.bias": torch.ones(3)}, path, metadata)
    with pytest.raises(ValueError, match=r"bias is torch.float32 \(3,\), expected .*\(64,\)"):
        read_weights(path)


@pytest.mark.parametrize("name", TRACKERS)
def test_saved_weights_give_the_same_network(name, tmp_path):
    net = trained(name)
    save_weights(net, name, tmp_path / "w.safetensors", {"seed": 3})
    loaded, model, info = read_weights(tmp_path / "w.safetensors")
    assert (model, info) == (name, {"seed": 3})
    with torch.no_grad():
        torch.testing.assert_close(loaded(CROP), net(CROP), atol=1e-4, rtol=1e-4)
    assert not loaded.training


def test_one_bit_weights_are_small(tmp_path):
    save_weights(build("rbsf"), "rbsf", tmp_path / "w.safetensors")
    save_weights(build("siamfc"), "siamfc", tmp_path / "f.safetensors")
    assert (tmp_path / "w.safetensors").stat().st_size < 500_000
    assert (tmp_path / "f.safetensors").stat().st_size > 9_000_000


def folded_arrays(net):
    """convN.weight and convN.bias with folded batch-norms, as SiamFC-3s is published."""
    arrays = {}
    for number, block in enumerate(net.layers, 1):
        weight, bias = block.conv.weight.detach().clone(), block.conv.bias
        if isinstance(block.norm, torch.nn.BatchNorm2d):
            factor = block.norm.weight / (block.norm.running_var + block.norm.eps).sqrt()
            weight = weight * factor[:, None, None, None]
            bias = block.norm.bias - block.norm.running_mean * factor
        arrays[f"conv{number}.weight"] = weight.detach().numpy()
        arrays[f"conv{number}.bias"] = bias.detach().numpy()
    return arrays


def test_npz_with_folded_batch_norms_is_read(tmp_path):
    net = trained("siamfc")
    np.savez(tmp_path / "w.npz", **folded_arrays(net))
    loaded, model, _ = read_weights(tmp_path / "w.npz")
    assert model == "siamfc"
    with torch.no_grad():
        torch.testing.assert_close(loaded(CROP), net(CROP), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("prefix", ["", "backbone.", "module.backbone."])
def test_pth_of_siamfc_pytorch_is_read(prefix, tmp_path):
    net, state = trained("siamfc"), {}
    for number, block in enumerate(net.layers, 1):
        last = number == 5
        block.norm.eps = 1e-6
        if number == 4:
            block.norm.running_var[::2] = 1e-5  # so small that another eps shows
        conv = f"conv{number}" if last else f"conv{number}.0"
        state[f"{prefix}{conv}.weight"] = block.conv.weight.detach()
        # siamfc-pytorch's convolutions have a bias, which its batch-norms remove again.
        bias = torch.full((block.conv.out_channels,), 0.5)
        state[f"{prefix}{conv}.bias"] = block.conv.bias.detach() if last else bias
        for key, value in block.norm.state_dict().items():
            state[f"{prefix}conv{number}.1.{key}"] = value + 0.5 if key == "running_mean" else value
    torch.save(state, tmp_path / "w.pth")
    loaded, _, _ = read_weights(tmp_path / "w.pth")
    with torch.no_grad():
        torch.testing.assert_close(loaded(CROP), net(CROP), atol=1e-3, rtol=1e-3)


class Payload:
    def __reduce__(self):
        return (print, ("code was run",))


def write_bad(kind, path):
    if kind == "half":
        save_weights(build("rbsf"), "rbsf", path)
        path.write_bytes(path.read_bytes()[:100_000])
    elif kind == "foreign":
        save_file({"x": torch.zeros(3)}, path)
    elif kind == "other network":
        save_file({"x": torch.zeros(3)}, path, {"format": "rbsf-weights-1", "model": "rbsf"})
    elif kind == "pickled npz":
        np.savez(path, conv1=np.array([Payload()], dtype=object))
    elif kind == "npz of another":
        np.savez(path, a=np.zeros(3))
    elif kind == "half npz":
        np.savez(path, **folded_arrays(build("siamfc")))
        path.write_bytes(path.read_bytes()[:100_000])
    elif kind == "pickled code":
        path.write_bytes(pickle.dumps(Payload()))
    elif kind == "code in torch":
        torch.save({"backbone.conv1.0.weight": Payload()}, path)
    elif kind == "other pth":
        torch.save({"fc.weight": torch.zeros(3)}, path)
    elif kind == "half pth":
        torch.save(build("siamfc").state_dict(), path)
        path.write_bytes(path.read_bytes()[:100_000])
    elif kind == "text":
        path.write_text("hello, this is a text file\n")
    elif kind == "page":
        path.write_text("<!DOCTYPE html>\n<html>")
    elif kind == "npy":
        with path.open("wb") as file:
            np.save(file, np.zeros(3))
    elif kind == "damaged npz":
        np.savez_compressed(path, a=np.arange(9999))
        data = bytearray(path.read_bytes())
        data[200:300] = bytes(255 - b for b in data[200:300])
        path.write_bytes(data)
    elif kind == "empty":
        path.write_bytes(b"")


@pytest.mark.parametrize(
    ("kind", "suffix", "message"),
    [
        ("half", ".safetensors", "not a whole safetensors file"),
        ("empty", ".safetensors", "not a whole safetensors file"),
        ("foreign", ".safetensors", "not of this program"),
        ("other network", ".safetensors", "does not fit the model 'rbsf'"),
        ("pickled npz", ".npz", "not a whole .npz of plain arrays"),
        ("npz of another", ".npz", "no SiamFC of conv1..conv5"),
        ("half npz", ".npz", "not a whole .npz"),
        ("empty", ".npz", "not a whole .npz"),
        ("npy", ".npz", "not a whole .npz"),
        ("damaged npz", ".npz", "not a whole .npz"),
        ("text", ".npz", "not a whole .npz"),
        ("text", ".safetensors", "not a whole safetensors file"),
        ("text", ".pth", r"not a whole PyTorch file \(KeyError 101\)"),
        ("page", ".pth", r"not a whole PyTorch file \(Unsupported operand 60"),
        ("pickled code", ".pth", "pickled code"),
        ("code in torch", ".pth", "pickled code"),
        ("other pth", ".pth", "no network of siamfc-pytorch's"),
        ("half pth", ".pth", "not a whole PyTorch file"),
        ("empty", ".pth", "not a whole PyTorch file"),
        ("empty", ".onnx", "weights end in .safetensors"),
    ],
)
def test_bad_files_get_one_line(kind, suffix, message, tmp_path, capsys):
    path = tmp_path / f"w{suffix}"
    write_bad(kind, path)
    with pytest.raises(ValueError, match=message) as error:
        read_weights(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    assert "code was run" not in capsys.readouterr().out


# By the name of the damage: what it makes of the tensors, and the message.
CHANGES = {
    "float bits": (
        lambda t: {"layers.1.conv.bits": t["layers.1.conv.bits"].float()},
        "bits is torch.float32",
    ),
    "short bits": (
        lambda t: {"layers.1.conv.bits": t["layers.1.conv.bits"][:, :-1].clone()},
        "expected torch.uint8",
    ),
    "0-d scale": (
        lambda t: {"layers.1.conv.scale": torch.tensor(1.0)},
        r"scale is torch.float32 \(\)",
    ),
    "empty scale": (
        lambda t: {"layers.1.conv.scale": torch.zeros(0)},
        r"scale is torch.float32 \(0,\)",
    ),
    "NaN scale": (
        lambda t: {"layers.1.conv.scale": t["layers.1.conv.scale"] * torch.nan},
        "never makes",
    ),
    "NaN weight": (
        lambda t: {"layers.0.conv.weight": t["layers.0.conv.weight"] * torch.nan},
        "not finite",
    ),
    "too large": (
        lambda t: {"layers.0.norm.bias": torch.full((96,), 1e300, dtype=torch.float64)},
        "not finite",
    ),
}


@pytest.mark.parametrize("damage", CHANGES)
def test_damaged_tensors_of_our_own_are_refused(damage, tmp_path):
    path, (change, message) = tmp_path / "w.safetensors", CHANGES[damage]
    save_weights(build("rbsf"), "rbsf", path)
    tensors = load_file(path)
    save_file(tensors | change(tensors), path, {"format": "rbsf-weights-1", "model": "rbsf"})
    with pytest.raises(ValueError, match=message) as error:
        read_weights(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        *(
            ("info", text, "its metadata `info` is no JSON object")
            for text in ("{", "[1]", "[" * 100_000)
        ),
        ("options", '{"name": "x"}', "does not fit the model 'rbsf'"),
        ("options", '{"method": ["a"]}', "does not fit the model 'rbsf'"),
        ("options", '{"method": "rbcn", "method_options": [1]}', "does not fit the model 'rbsf'"),
    ],
)
def test_damaged_metadata_is_refused(key, text, message, tmp_path):
    path = tmp_path / "w.safetensors"
    save_weights(build("rbsf"), "rbsf", path)
    save_file(load_file(path), path, {"format": "rbsf-weights-1", "model": "rbsf", key: text})
    with pytest.raises(ValueError, match=rf"w\.safetensors: {message}"):
        read_weights(path)


@pytest.mark.parametrize("load", [read_weights, load_checkpoint])
def test_random_bytes_are_no_pytorch_file_and_raise_no_warning(load, tmp_path):
    random, path = np.random.default_rng(0), tmp_path / "w.pth"
    for number in range(200):
        # Some look like a pickle of a protocol that torch warns of.
        path.write_bytes((b"", b"\x80\x02", b"\x80\x03")[number % 3] + random.bytes(number))
        with (
            warnings.catch_warnings(record=True) as caught,
            pytest.raises(ValueError, match="not a whole") as error,
        ):
            load(path)
        assert not caught
        assert str(path) in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_code_is_told_from_damage(protocol, tmp_path):
    path = tmp_path / "w.pth"
    path.write_bytes(pickle.dumps(Payload(), protocol))
    for load in (read_weights, load_checkpoint):
        with pytest.raises(ValueError, match=r"w\.pth: holds pickled code, which is not loaded"):
            load(path)


def test_a_missing_file_a_folder_and_an_unknown_model_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no weights file"):
        read_weights(tmp_path / "none.safetensors")
    with pytest.raises(ValueError, match="is a folder; give a weights file"):
        read_weights(tmp_path)
    with pytest.raises(ValueError, match="unknown model 'x'; known: siamfc, xnor, rbsf"):
        build("x")


# By the name of the damage: what it makes of a layer of 2 kernels and 4 terms, and the message.
SEVERAL = {
    "one kernel": (
        lambda t: {"bits": t["bits"][:1].clone()},
        r"bits is torch.uint8 \(1, 64, 100\), expected .*\(2, ",
    ),
    "no kernels": (lambda t: {"bits": t["bits"][0].clone()}, r"bits is torch.uint8 \(64, 100\)"),
    "three scales": (
        lambda t: {"scale": t["scale"][:3].clone()},
        r"scale is torch.float32 \(3, 64\)",
    ),
    "one shift": (
        lambda t: {"shift": t["shift"][0].clone()},
        r"shift is torch.float32 \(32,\), expected .*\(4, 32\)",
    ),
    "NaN shift": (
        lambda t: {"shift": t["shift"] * torch.nan},
        "shift holds values that the method never makes",
    ),
    "infinite scales": (
        lambda t: {"scale": t["scale"] * torch.inf},
        "scale holds values that the method never makes",
    ),
}


@pytest.mark.parametrize("damage", SEVERAL)
def test_damaged_terms_are_refused(damage, tmp_path):
    path, (change, message) = tmp_path / "w.safetensors", SEVERAL[damage]
    net = build("lenet", method="abcnet", method_options={"weight_bases": 2, "activation_bases": 2})
    save_weights(net, "lenet", path)
    tensors, name = load_file(path), "layers.1.conv"
    changed = change({key: tensors[f"{name}.{key}"] for key in ("bits", "scale", "shift")})
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    save_signed(
        tensors | {f"{name}.{key}": tensor for key, tensor in changed.items()}, path, metadata
    )
    with pytest.raises(ValueError, match=message) as error:
        read_weights(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_shift_for_a_method_without_is_refused(tmp_path):
    path = tmp_path / "w.safetensors"
    save_weights(build("rbsf"), "rbsf", path)
    tensors = load_file(path) | {"layers.1.conv.shift": torch.ones(96)}
    save_file(tensors, path, {"format": "rbsf-weights-1", "model": "rbsf"})
    with pytest.raises(ValueError, match="shift holds values that the method never makes"):
        read_weights(path)


def test_borders_are_kept(tmp_path):
    net = build("lenet", method="bireal")
    layers = [module for module in net.modules() if hasattr(module, "border")]
    layers[0].border = 1.0
    save_weights(net, "lenet", tmp_path / "net.safetensors")
    loaded = read_weights(tmp_path / "net.safetensors")[0]
    assert [m.border for m in loaded.modules() if hasattr(m, "border")] == [
        layer.border for layer in layers
    ]


@pytest.mark.parametrize(
    ("borders", "message"),
    [('{"nothing": 1}', "nothing"), ('{"%s": 2}', "is 2, expected -1, 0 or 1")],
)
def test_borders_that_are_none_are_refused(tmp_path, borders, message):
    net = build("lenet", method="bireal")
    name = next(name for name, module in net.named_modules() if hasattr(module, "border"))
    save_weights(net, "lenet", tmp_path / "net.safetensors")
    with safe_open(tmp_path / "net.safetensors", "pt") as file:
        metadata, tensors = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    metadata["borders"] = borders.replace("%s", name)
    save_signed(tensors, tmp_path / "net.safetensors", metadata)
    with pytest.raises(ValueError, match=message):
        read_weights(tmp_path / "net.safetensors")


def test_every_flipped_bit_is_noticed(tmp_path):
    path = tmp_path / "net.safetensors"
    save_weights(build("lenet", method="rbcn"), "lenet", path, {"seed": 3})
    whole, random = path.read_bytes(), np.random.default_rng(0)
    places = [*range(8, 1000, 10), *random.integers(0, len(whole), 50)]
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(random.integers(8))
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"net\.safetensors: "):
            read_weights(path)


def test_files_from_before_load_with_a_warning(tmp_path):
    path = tmp_path / "net.safetensors"
    save_weights(build("lenet", method="rbcn"), "lenet", path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    assert metadata["format"] == "rbsf-weights-2"
    old = metadata | {"format": "rbsf-weights-1"}
    del old["sha256"]
    save_file(load_file(path), path, old)
    with pytest.warns(UserWarning, match=r"net\.safetensors: has no checksum, so damage cannot"):
        read_weights(path)
    save_file(load_file(path), path, old | {"format": "rbsf-weights-2"})
    with pytest.raises(ValueError, match=r"its bytes have changed since it was written \(sha256\)"):
        read_weights(path)


def test_the_same_weights_are_the_same_bytes_in_every_process(tmp_path):
    """Files of weights, packed files and ONNX graphs, whose libraries order parts at random."""
    code = (
        "import sys, torch; from rbsf.models import build; from rbsf.weights import save_weights;"
        "from rbsf.export.pack import pack_weights; torch.manual_seed(0); at = sys.argv[1];"
        "about = {'input': {'size': 28, 'mean': [0.1], 'std': [0.3]}, 'seed': 0};"
        "save_weights(build('lenet', method='rbcn'), 'lenet', at + '/w.safetensors', about);"
        "pack_weights(at + '/w.safetensors', at + '/p.safetensors')"
    )
    for number in "123":
        (tmp_path / number).mkdir()
        environment = os.environ | {"PYTHONHASHSEED": number}
        command = [sys.executable, "-c", code, str(tmp_path / number)]
        subprocess.run(command, check=True, env=environment)
    for name in ("w.safetensors", "p.safetensors"):
        assert len({(tmp_path / number / name).read_bytes() for number in "123"}) == 1


@pytest.mark.parametrize("name", ["st_classes_3e6", "st_stages_4096"])
def test_small_files_that_name_large_networks_take_no_memory(name):
    path = case("hostile") / f"{name}.safetensors"
    resource = pytest.importorskip("resource", reason=needs("linux", "it limits its memory"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(
        ValueError, match=rf"{name}\.safetensors: does not fit the model 'resnet18'"
    ):
        read_weights(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + 500_000  # KiB


@pytest.mark.timeout(60)  # some would take all memory and hours
@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("resnet18", {"classes": 10**15}, "does not fit"),
        ("resnet18", {"classes": 10**400}, "does not fit"),
        ("resnet18", {"stages": "4096-4096-4096-4096", "method": "abcnet"}, "does not fit"),
        ("rbsf2", {"channels": [2**14] * 3}, "does not fit"),
        ("rbsf2", {"depths": [10**9, 1, 1]}, "depths are"),
        ("rbsf2", {"head_depth": 10**9}, "head_depth is"),
        ("rbsf2", {"stem": 10**6}, "does not fit"),
        ("rbsf2", {"channels": [64] * 10**5, "depths": [1] * 10**5}, "depths are"),
    ],
)
def test_options_of_large_networks_are_refused_before_they_are_built(
    model, options, message, tmp_path
):
    path = tmp_path / "net.safetensors"
    metadata = {"format": "rbsf-weights-1", "model": model, "options": json.dumps(options)}
    save_file({"x": torch.zeros(3)}, path, metadata)
    with pytest.raises(ValueError, match=message) as error:
        read_weights(path)
    assert "\n" not in str(error.value)


def test_an_npz_that_expands_is_refused(tmp_path):
    path = tmp_path / "w.npz"
    np.savez_compressed(path, a=np.zeros(1 << 26))
    assert path.stat().st_size < 1_000_000
    with pytest.raises(
        ValueError, match=r"w\.npz: .*its arrays take 536,871,0.. bytes, 268,435,456"
    ):
        read_weights(path)


@pytest.mark.parametrize(
    "change",
    [
        {"size": 10**6},
        {"size": math.inf},
        {"size": 0},
        {"mean": [math.nan]},
        {"std": [math.inf]},
        {"std": [0.0]},
        {"mean": [10**400]},
    ],
)
def test_images_that_no_classifier_takes(change):
    taken = {"size": 28, "mean": [0.1], "std": [0.3]}
    with pytest.raises(ValueError, match=r"w\.safetensors: its info has no input"):
        classifier_input("w.safetensors", {"input": taken | change})
