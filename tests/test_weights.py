"""Networks, and reading and writing their weights."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from rbsf.layers import binary_layers
from rbsf.models import MODELS, build
from rbsf.weights import load_weights, save_weights

CROP = torch.randint(0, 256, (2, 3, 127, 127), generator=torch.Generator().manual_seed(0)).float()


def trained(name):
    """A network whose every tensor differs from its start."""
    torch.manual_seed(3)
    net = build(name)
    net.train()(CROP)
    for parameter in net.parameters():
        parameter.data += 0.01 * torch.randn_like(parameter)
    return net.eval()


@pytest.mark.parametrize("name", MODELS)
def test_every_model_has_siamfcs_shape(name):
    net = build(name).eval()
    with torch.no_grad():
        assert net(CROP[:1]).shape == (1, 256, 6, 6)
        assert net(torch.zeros(1, 3, 255, 255)).shape == (1, 256, 22, 22)
    assert sum(p.numel() for n, p in net.named_parameters() if n.endswith("conv.weight")) == 2_332_704
    assert list(binary_layers(net)) == ([] if name == "siamfc" else [f"layers.{i}.conv" for i in (1, 2, 3, 4)])


def test_exemplar_features_are_a_window_of_the_search_features():
    """No padding anywhere: the features of a crop do not depend on what surrounds it."""
    net, image = trained("rbsf"), torch.rand(1, 3, 255, 255) * 255
    with torch.no_grad():
        inner, outer = net(image[..., 64:191, 64:191]), net(image)
    torch.testing.assert_close(inner, outer[..., 8:14, 8:14], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_saved_weights_give_the_same_network(name, tmp_path):
    net = trained(name)
    save_weights(net, name, tmp_path / "w.safetensors", {"seed": 3})
    loaded, model, info = load_weights(tmp_path / "w.safetensors")
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
    """convN.weight and .bias with the batch-norm folded in, as published SiamFC-3s weights come."""
    arrays = {}
    for number, block in enumerate(net.layers, 1):
        weight, bias = block.conv.weight.detach().clone(), block.conv.bias
        if isinstance(block.norm, torch.nn.BatchNorm2d):
            factor = block.norm.weight / (block.norm.running_var + block.norm.eps).sqrt()
            weight, bias = weight * factor[:, None, None, None], block.norm.bias - block.norm.running_mean * factor
        arrays[f"conv{number}.weight"], arrays[f"conv{number}.bias"] = weight.detach().numpy(), bias.detach().numpy()
    return arrays


def test_npz_with_folded_batch_norms(tmp_path):
    net = trained("siamfc")
    np.savez(tmp_path / "w.npz", **folded_arrays(net))
    loaded, model, _ = load_weights(tmp_path / "w.npz")
    assert model == "siamfc"
    with torch.no_grad():
        torch.testing.assert_close(loaded(CROP), net(CROP), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("prefix", ["", "backbone.", "module.backbone."])
def test_pth_of_siamfc_pytorch(prefix, tmp_path):
    net, state = trained("siamfc"), {}
    for number, block in enumerate(net.layers, 1):
        last = number == 5
        conv = f"conv{number}" if last else f"conv{number}.0"
        state[f"{prefix}{conv}.weight"] = block.conv.weight.detach()
        # siamfc-pytorch's convolutions have a bias, which its batch-norms take back
        bias = torch.full((block.conv.out_channels,), 0.5)
        state[f"{prefix}{conv}.bias"] = block.conv.bias.detach() if last else bias
        for key, value in block.norm.state_dict().items():
            state[f"{prefix}conv{number}.1.{key}"] = value + 0.5 if key == "running_mean" else value
    torch.save(state, tmp_path / "w.pth")
    loaded, _, _ = load_weights(tmp_path / "w.pth")
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
        load_weights(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    assert "code was run" not in capsys.readouterr().out


def test_missing_file_and_unknown_model(tmp_path):
    with pytest.raises(FileNotFoundError, match="no weights file"):
        load_weights(tmp_path / "none.safetensors")
    with pytest.raises(ValueError, match="unknown model 'x'; known: siamfc, xnor, rbsf"):
        build("x")
