"""The engine's kernels convolve signs as `F.conv2d` does, and only in training steps."""

from __future__ import annotations

import pytest
import torch
from requirements import skip_without
from torch import nn
from torch.nn import functional as F

from rbsf import layers, sign_convolution
from rbsf.binarize import Frame, hard_sign
from rbsf.methods import METHODS, get_method
from rbsf.sign_convolution import convolve_signs, has_kernels


def signs_and_kernel(inputs, outputs, side):
    generator = torch.Generator().manual_seed(inputs)
    signs = hard_sign(torch.randn(3, inputs, 9, 8, generator=generator))
    kernel = hard_sign(torch.randn(outputs, inputs, side, side, generator=generator))
    scale = torch.rand(outputs, 1, 1, 1, generator=generator)
    signs = signs.contiguous(memory_format=torch.channels_last)
    return signs.requires_grad_(), (kernel * scale).requires_grad_()


@pytest.fixture
def _kernels():
    if not has_kernels(*signs_and_kernel(8, 8, 3)):
        skip_without("kernels", "the engine has none here that training would use")


@pytest.mark.usefixtures("_kernels")
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("inputs", "outputs", "side"), [(32, 16, 3), (5, 7, 3), (64, 130, 1)])
def test_results_and_gradients_are_those_of_conv2d(inputs, outputs, side, stride):
    signs, kernel = signs_and_kernel(inputs, outputs, side)
    found = convolve_signs(signs, kernel, stride)
    expected = F.conv2d(signs, kernel, None, stride)
    torch.testing.assert_close(found, expected)
    assert found.is_contiguous(memory_format=torch.channels_last)
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
    gradients = [torch.autograd.grad(out, (signs, kernel), weights) for out in (found, expected)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("kernels", [True, False])
def test_gradients_can_be_computed_in_16_bits(monkeypatch, kernels):
    if not kernels:
        monkeypatch.setattr(sign_convolution, "has_kernels", lambda signs, kernel: False)
    signs, kernel = signs_and_kernel(32, 16, 3)
    found = convolve_signs(signs, kernel, 1, torch.bfloat16)
    torch.testing.assert_close(found, F.conv2d(signs, kernel))
    weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(1))
    exact, rounded = (
        torch.autograd.grad(out, (signs, kernel), weights)
        for out in (F.conv2d(signs, kernel), found)
    )
    for one, other in zip(exact, rounded, strict=True):
        assert other.dtype == torch.float32
        assert not torch.equal(one, other)
        assert (one - other).norm() < 0.01 * one.norm()


@pytest.mark.usefixtures("_kernels")
@pytest.mark.parametrize("method", METHODS)
def test_a_layer_in_training_gives_what_it_gives_in_float64(method):
    torch.manual_seed(0)
    conv = nn.Conv2d(6, 8, 3, stride=2, padding=1, bias=False)
    layer = get_method(method).from_conv(conv).train()
    x = torch.randn(2, 6, 11, 11)
    found = layer(x)
    torch.testing.assert_close(found, layer.double()(x.double()).float())


def test_only_training_steps_of_plain_layers_go_by_the_kernels(monkeypatch):
    calls = []

    def convolve(signs, kernel, stride):
        calls.append(stride)
        return F.conv2d(signs, kernel, None, stride)

    monkeypatch.setattr(layers, "convolve_signs", convolve)
    monkeypatch.setattr(layers, "has_kernels", lambda signs, kernel: True)
    x = torch.randn(1, 8, 6, 6)
    for settings in ({}, {"groups": 2}, {"dilation": 2}, {"stride": (1, 2)}):
        get_method("rbcn").from_conv(nn.Conv2d(8, 8, 3, bias=False, **settings)).train()(x)
    assert calls == [1]
    layer = get_method("rbcn").from_conv(nn.Conv2d(8, 8, 3, bias=False))
    layer.eval()(x)
    with torch.no_grad():
        layer.train()(x)
    with torch.autocast("cpu", torch.bfloat16):
        layer(x)
    get_method("abcnet").from_conv(nn.Conv2d(8, 8, 3, bias=False)).train()(x)
    assert calls == [1]


@pytest.mark.parametrize("order", [torch.channels_last, torch.contiguous_format])
def test_a_frame_is_padding(order):
    x = torch.tensor([-2.0, -0.0, 0.0, 3.0, 1e-30, -1e-30]).view(1, 1, 2, 3)
    x = x.expand(2, 3, 2, 3).contiguous(memory_format=order)
    signs = torch.tensor([-1.0, 1.0, 1.0, 1.0, 1.0, -1.0]).view(1, 1, 2, 3).expand(2, 3, 2, 3)
    assert torch.equal(hard_sign(x), signs)
    framed = hard_sign(x, Frame(1, 2, border=-1.0))
    assert torch.equal(framed, F.pad(signs, (2, 2, 1, 1), value=-1.0))
    assert framed.is_contiguous(memory_format=order)
