"""Networks that caused users trouble: in-place operations are packed, counted and measured."""

from __future__ import annotations

import operator
import sys

import numpy as np
import pytest
import torch
from requirements import case
from torch import nn
from torch.nn import functional as F

from rbsf.engine.run import Engine
from rbsf.export.pack import export_network
from rbsf.maps import measure_maps

TODAY = {  # what the cases import -> where that is now
    "from rbsf.engine.network import Network": "from rbsf.engine.run import Engine as Network",
    "rbsf.export_network": "rbsf.export.pack",
    "from rbsf.layers import binarize": "from rbsf.conversion import binarize",
    "rbsf.classification": "rbsf.train.cross_entropy",
    "rbsf.rectify": "rbsf.train.rectify",
}


@pytest.mark.parametrize("name", ["02-inplace-export", "03-inplace-maps"])
def test_cases_of_in_place_operations(name, tmp_path, monkeypatch, capsys) -> None:
    text = (case(name) / "case.py").read_text()
    for old, new in TODAY.items():
        text = text.replace(old, new)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["case.py"])
    with pytest.raises(SystemExit) as end:
        exec(compile(text, "case.py", "exec"), {"__name__": "__main__"})
    assert not end.value.code, capsys.readouterr().out


class Net(nn.Module):
    """A convolution whose map is changed, and read again by its old name."""

    def __init__(self, change) -> None:
        super().__init__()
        self.change, self.conv, self.last = change, nn.Conv2d(3, 6, 3), nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        self.change(x)
        return self.last(F.adaptive_avg_pool2d(x, 1).flatten(1))


def add(x: torch.Tensor) -> None:
    x += F.relu(x)


def add_of_an_alias(x: torch.Tensor) -> None:
    alias = x
    alias += x * x


def multiply(x: torch.Tensor) -> None:
    x *= x


PACKED = {
    "x += y": add,
    "x += y by another name": add_of_an_alias,
    "x *= y": multiply,
    "iadd": lambda x: operator.iadd(x, x * x),
    "relu_": torch.relu_,
    "hardtanh": lambda x: F.hardtanh(x, -0.1, 0.1, inplace=True),
}


@pytest.mark.parametrize("change", PACKED.values(), ids=PACKED)
def test_what_works_in_place_is_packed(change, tmp_path) -> None:
    torch.manual_seed(0)
    net = Net(change).eval()
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), np.uint8)
    export_network(net, tmp_path / "net.safetensors", "net", (8, 8, 3), None, [120.0], [60.0])
    pixels = torch.from_numpy((images - np.float32(120)) / 60).permute(0, 3, 1, 2)
    with torch.inference_mode():
        expected = net(pixels).numpy()
    np.testing.assert_allclose(Engine(tmp_path / "net.safetensors")(images), expected, atol=1e-5)


def subtract(x: torch.Tensor) -> None:
    x -= x * x


def set_part(x: torch.Tensor) -> None:
    x[:, 0] = 0


REFUSED = {
    "x -= y": (subtract, "isub calls isub"),
    "x[:, 0] = 0": (set_part, "does not support item assignment"),
    "a part": (lambda x: x[:, :3].relu_(), "a part or the size of a map"),
    "data": (lambda x: x.data.relu_(), "a part or the size of a map"),
    "a half": (lambda x: x.chunk(2, 1)[0].relu_(), "chunk calls chunk"),
    "out": (lambda x: torch.add(x, x, out=x), "add calls add"),
    "copy_": (lambda x: x.copy_(x * x), "copy_ calls copy_"),
    "flattened": (lambda x: x.flatten(1).relu_(), "relu_ works in place on conv"),
    "not traced": (lambda x: x.add_(x) if type(x) is torch.Tensor else x, "torch.fx does not see"),
}


@pytest.mark.parametrize(("change", "fault"), REFUSED.values(), ids=REFUSED)
def test_what_has_no_packed_form_is_refused_by_name(change, fault, tmp_path) -> None:
    with pytest.raises(ValueError, match=fault):
        export_network(Net(change).eval(), tmp_path / "net.safetensors", "net", (8, 8, 3))
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("relu", [nn.ReLU(inplace=True), nn.ReLU()])
def test_a_batch_norm_behind_an_activation_reads_no_convolution(relu) -> None:
    """Whether the activation works in place makes no difference."""
    from rbsf.conversion import binarize

    def net() -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), relu, nn.BatchNorm2d(4))

    student = net()
    binarize(student, "xnor")
    with pytest.raises(ValueError, match="no batch-norm reads the output of binary layer '1'"):
        measure_maps(student, net(), lambda n, x: n(x), [torch.randn(2, 3, 8, 8)])
