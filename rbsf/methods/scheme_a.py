"""Scheme-A of Apprentice (Mishra and Marr, ICLR 2018).

A low-precision student learns together with its teacher. The scheme defines a loss but no
quantizer. The layer here uses the quantizer of DoReFa-Net (Zhou et al., 2016, arXiv:1606.06160),
since Apprentice builds on its low-precision weights. It has one scale per layer.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from rbsf.binarize import clip_sign, hard_sign, straight_through
from rbsf.layers import BinaryConv2d


class SchemeAConv2d(BinaryConv2d):
    """`Conv(sign(F_in), sign(W) * E|W|)` with the mean magnitude of the whole layer.

    Weights are as in DoReFa-Net's 1-bit case, with the identity as straight-through gradient
    (section 2.3 there). Activations are signs with a gradient of 1 on [-1, 1].
    """

    sign = staticmethod(clip_sign)

    def kernel(self) -> Tensor:
        """`sign(W) * E|W|`, `[O, I/g, k, k]`."""
        return straight_through(hard_sign(self.weight) * self.weight.abs().mean(), self.weight)

    def scale(self) -> Tensor:
        """`E|W|` for every output channel, `[O]`, without gradient."""
        return self.weight.detach().abs().mean().expand(self.out_channels)


def apprentice_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    alpha: float = 1.0,
    beta: float = 0.5,
    gamma: float = 0.5,
) -> Tensor:
    """`alpha H(y, p_T) + beta H(y, p_A) + gamma H(z_T, p_A)`, a scalar (Eq. 1).

    `H` is the mean cross-entropy over N. The logits of student (p_A) and teacher (p_T) are
    `[N, classes]`, the labels `[N]` whole numbers. The targets of the last term are the teacher's
    probabilities. They count as constants, so that the teacher learns only from the labels and not
    from its student. Raises ValueError if the two networks do not have the same classes.
    """
    if student_logits.shape != teacher_logits.shape:
        shapes = f"{tuple(student_logits.shape)} and {tuple(teacher_logits.shape)}"
        raise ValueError(
            f"logits of student and teacher have shapes {shapes}; both must have the same classes"
        )
    targets = teacher_logits.detach().softmax(1)
    teacher_loss = F.cross_entropy(teacher_logits, labels)
    student_loss = F.cross_entropy(student_logits, labels)
    imitation_loss = F.cross_entropy(student_logits, targets)
    return alpha * teacher_loss + beta * student_loss + gamma * imitation_loss
