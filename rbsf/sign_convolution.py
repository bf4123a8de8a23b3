"""Convolution of signs with a binary kernel in training; on a CPU the engine's kernels run it."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from rbsf.engine.bit_layout import kernel_arguments
from rbsf.engine.cpu import choose_isa, native
from rbsf.engine.node import Node

ISAS = ("amx", "avx512", "avx2", "neon")  # instruction sets with kernels faster than PyTorch's


@cache
def _isa() -> str:
    """The instruction set of the engine's kernels; empty if they would not be faster."""
    isa = choose_isa()
    return isa if native and isa in ISAS else ""


def has_kernels(signs: Tensor, kernel: Tensor) -> bool:
    """Whether `convolve_signs` takes these operands: float32 on a CPU, and a square kernel."""
    rows, columns = kernel.shape[2:]
    fits = rows == columns and signs.device.type == "cpu" and signs.dtype == torch.float32
    return fits and kernel.dtype == torch.float32 and bool(_isa())


def convolve_signs(
    signs: Tensor, kernel: Tensor, stride: int, gradients: torch.dtype | None = None
) -> Tensor:
    """`F.conv2d` of `signs` `[N, I, H, W]` and `kernel` `[O, I, k, k]`, with gradients.

    `signs` holds -1 and +1. A filter of `kernel` holds two numbers, +s and -s. If `has_kernels` is
    true, the engine's kernels run it. Their sums are exact, so results differ from `F.conv2d` by
    its rounding. Gradients are computed in the dtype `gradients`; None means that of the signs.
    """
    return _ConvolveSigns.apply(signs, kernel, stride, gradients or signs.dtype)


class _ConvolveSigns(torch.autograd.Function):
    """Convolves bits in the forward pass and floats, the gradients, in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any, signs: Tensor, kernel: Tensor, stride: int, gradients: torch.dtype
    ) -> Tensor:
        ctx.save_for_backward(signs.to(gradients), kernel.to(gradients))
        ctx.stride = stride
        if has_kernels(signs, kernel):
            return _forward(signs, kernel, stride)
        return F.conv2d(signs, kernel, None, stride)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        signs, kernel = ctx.saved_tensors
        geometry = ([ctx.stride] * 2, [0, 0], [1, 1], False, [0, 0], 1)
        wanted = [*ctx.needs_input_grad[:2], False]
        to_signs, to_kernel, _ = torch.ops.aten.convolution_backward(
            grad.to(signs.dtype), signs, kernel, None, *geometry, wanted
        )
        return _cast(to_signs, grad.dtype), _cast(to_kernel, grad.dtype), None, None


def _cast(gradient: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if gradient is None else gradient.to(dtype)


def _forward(signs: Tensor, kernel: Tensor, stride: int) -> Tensor:
    """The convolution, `[N, O, H', W']` in channels-last memory."""
    count, inputs, height, width = signs.shape
    outputs, side = kernel.shape[0], kernel.shape[2]
    pixels = signs.permute(0, 2, 3, 1).contiguous().numpy()  # [N, H, W, I]
    bits = np.empty((count, 1, height, width, (inputs + 7) // 8), np.uint8)
    threshold = np.zeros(inputs, np.float32)
    flip = np.zeros((1, bits.shape[-1]), np.uint8)
    threads, isa = torch.get_num_threads(), _isa()
    native.pack_map(pixels, threshold, flip, bits, 0, threads, isa)
    shape = (count, (height - side) // stride + 1, (width - side) // stride + 1, outputs)
    out = torch.empty(shape)
    scale = kernel[:, 0, 0, 0].abs()[None].numpy()  # [1, O]
    no_bias = np.zeros(outputs, np.float32)
    layers = [_layer(kernel, stride)]
    native.conv_bits(layers, [bits], scale, no_bias, None, None, out.numpy(), threads, isa)
    return out.permute(0, 3, 1, 2)


def _layer(kernel: Tensor, stride: int) -> Any:
    """The extension's convolution by the signs of `kernel`."""
    outputs, inputs, side, _ = kernel.shape
    positive = (kernel >= 0).permute(0, 2, 3, 1).numpy()  # [O, k, k, I]
    rows = np.packbits(positive, axis=-1, bitorder="little").reshape(outputs, -1)
    geometry = {"kernel": side, "stride": stride, "channels": inputs, "groups": 1}
    node = Node("training", "conv_bits", attributes=geometry)
    return native.Conv(**kernel_arguments(node, rows, False, None, "sums"))
