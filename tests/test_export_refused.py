"""Networks that have no packed form, and packed files that would compute something else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_export_network import binary, head, nodes_of, settle, stem, taken
from torch import nn

from rbsf.export import fold, pack
from rbsf.export.fold import threshold_of_real
from rbsf.export.images import Images
from rbsf.export.pack import export_classifier, export_network
from rbsf.methods import get_method
from rbsf.models import build


def test_weights_that_are_not_finite_are_refused(tmp_path) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3)).eval()
    net[0].weight.data[0, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="no packed form: 0 holds values that are not finite"):
        nodes_of(net, (8, 8, 3))
    net = settle(nn.Sequential(stem(8), binary(8, 8), binary(8, 8), head(8)), taken((12, 12, 3)))
    net[2].norm.bias.data[3] = torch.nan
    message = r"no packed form: 2\.norm holds values that are not finite"
    with pytest.raises(ValueError, match=message):
        export_network(net, tmp_path / "net.safetensors", "net", (12, 12, 3))
    assert not [*tmp_path.iterdir()]


def small_net(method: str = "xnor") -> nn.Module:
    torch.manual_seed(10)
    layers = [
        binary(8, 16, method, padding=1),
        nn.BatchNorm2d(16),
        binary(16, 8, method),
        nn.ReLU(),
        head(8),
    ]
    return settle(nn.Sequential(stem(8), *layers), taken((20, 18, 3)))


def moved(scale: np.ndarray, bias: np.ndarray) -> dict[str, np.ndarray]:
    sign = threshold_of_real(scale, bias)
    return sign | {"threshold": sign["threshold"] + np.float32(0.02)}


def below_and_not_at(scale: np.ndarray, bias: np.ndarray) -> dict[str, np.ndarray]:
    sign = threshold_of_real(scale, bias)
    return sign | {"threshold": np.nextafter(sign["threshold"], np.float32(np.inf))}


def assert_refused(where: str, folder, net: nn.Module) -> None:
    difference = "the packed network differs from the rounded one in float64"
    message = rf"net\.safetensors was not written: {difference} at {where}$"
    images, out = taken((20, 18, 3)), folder / "net.safetensors"
    with pytest.raises(ValueError, match=message) as error:
        export_network(net, out, "net", images.shape, {}, images.mean, images.std)
    assert "\n" not in str(error.value)
    assert not [*folder.iterdir()]


def test_moved_thresholds_of_real_maps_are_found(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(fold, "threshold_of_real", moved)
    assert_refused(r"1\.sign\.0: [\d,]+ of 4,608 bits", tmp_path, small_net())


def bits_flipped(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Flip one bit of every filter."""
    weight = tensors["weight"].copy()
    weight[:, 3] ^= 16
    return {"weight": weight}


def more(key: str):
    return lambda tensors: tensors | {key: tensors[key] * np.float32(1.1)}


@pytest.mark.parametrize(
    ("method", "name", "spoil", "where"),
    [
        (
            "xnor",
            "normalise",
            more("bias"),
            r"normalise: [\d,]+ of 2,160 values, by 0\.\d+ of the largest",
        ),
        ("xnor", "0.0", more("weight"), r"0\.0: [\d,]+ of 4,608 values, by 0\.\d+ of the largest"),
        ("xnor", "1.sum.0", bits_flipped, r"3\.sign\.0: [\d,]+ of 9,216 bits"),
        ("xnor", "3.sum.0", bits_flipped, r"3: [\d,]+ of 3,584 values, by 0\.\d+ of the largest"),
        ("abcnet", "3.sum.4", bits_flipped, r"3: [\d,]+ of 3,584 values, by 0\.\d+ of the largest"),
        ("xnor_k", "3.map", more("scale"), r"3: [\d,]+ of 3,584 values, by 0\.\d+ of the largest"),
        ("xnor", "5.2", more("bias"), r"5\.2: \d+ of 10 values, by 0\.\d+ of the largest"),
    ],
)
def test_spoiled_nodes_are_found(method, name, spoil, where, tmp_path, monkeypatch) -> None:
    def spoiled(traced):
        nodes, values = fold.fold(traced)
        (place,) = [i for i, node in enumerate(nodes) if node.name == name]
        nodes = list(nodes)
        nodes[place] = replace(nodes[place], tensors=spoil(nodes[place].tensors))
        return nodes, values

    monkeypatch.setattr(pack, "fold", spoiled)
    assert_refused(where, tmp_path, small_net(method))


def test_sums_at_their_thresholds_are_not_refused(tmp_path) -> None:
    """New batch-norms put thresholds at sums of 0, which are not exact.

    Float64 makes a little more or less of them.
    """
    torch.manual_seed(0)
    net = build("lenet", method="xnor").eval()
    found = export_classifier(net, "lenet", Images((28, 28, 1))).compare()
    differing = sum(part.differing for part in found.differences)
    assert 0 < differing == sum(part.near for part in found.differences)
    export_network(net, tmp_path / "net.safetensors", "lenet", (28, 28, 1))
    assert (tmp_path / "net.safetensors").exists()


def test_real_values_at_their_thresholds_are_not_refused() -> None:
    """A norm's mean is the value that every pixel has in float64.

    Float32 makes a little more or less of it.
    """
    torch.manual_seed(0)
    binary_layer = get_method("xnor")(8, 8, 3, input_norm=True)
    net = nn.Sequential(nn.Conv2d(3, 8, 1), binary_layer, head(8)).double().eval()
    image = np.full((1, 9, 9, 3), 77, np.uint8)
    pixel = torch.full((1, 3, 1, 1), 77.0).double()
    net[1].norm.running_mean.copy_(net[0](pixel).detach().flatten())
    image[0, 0] = 250
    exported = export_classifier(net, "net", Images((9, 9, 3)))
    found = exported.compare(image)
    assert 0 < found.differences[1].differing == found.differences[1].near
    found.check()


def test_a_step_of_float32_is_no_difference(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(fold, "threshold_of_real", below_and_not_at)
    images = taken((20, 18, 3))
    export_network(
        small_net(), tmp_path / "net.safetensors", "net", images.shape, {}, images.mean, images.std
    )
    assert (tmp_path / "net.safetensors").exists()


@pytest.mark.parametrize(
    ("images", "fault"),
    [
        ({"mean": [1.0, 2.0]}, "mean is .*; give one number, or one for each of 3 channels"),
        ({"std": [0.0]}, "std is .*; give finite numbers above 0"),
        ({"std": [1.0, float("nan"), 1.0]}, "std is .*; give finite numbers above 0"),
        ({"mean": [float("inf")]}, "mean is .*; give finite numbers"),
    ],
)
def test_a_mean_or_deviation_that_does_not_suit_is_named(images, fault, tmp_path):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()).eval()
    with pytest.raises(ValueError, match=fault):
        export_network(net, tmp_path / "net.safetensors", "net", (6, 6, 3), **images)


def test_one_number_needs_no_list():
    pixels = np.arange(27, dtype=np.uint8).reshape(1, 3, 3, 3)
    one, listed = Images((3, 3, 3), 3.0, 2.0), Images((3, 3, 3), [3.0], [2.0])  # type: ignore[arg-type]
    assert torch.equal(one.normalised(pixels), listed.normalised(pixels))
