"""Scheme-A of Apprentice (Mishra and Marr, ICLR 2018): a low-precision student learns together with
its teacher.

The scheme is a loss and not a quantizer.  The layer here makes it 1-bit by the quantizer of
DoReFa-Net (Zhou et al., 2016, arXiv:1606.06160), whose low-precision weights Apprentice's family of
methods builds on: one scale per layer.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from rbsf.binarize import clip_sign, hard_sign, straight_through
from rbsf.layers import BinaryConv2d


class SchemeAConv2d(BinaryConv2d):
    """``Conv(sign(F_in), sign(W) * E|W|)``, the mean magnitude taken over the whole layer.

    Weights: DoReFa-Net's 1-bit case, whose straight-through gradient is the identity (section 2.3
    there). Activations: sign, with gradient 1 on [-1, 1].
    """

    sign = staticmethod(clip_sign)

    def kernel(self) -> Tensor:
        """``sign(W) * E|W|``, [O, I/g, k, k]."""
        return straight_through(hard_sign(self.weight) * self.weight.abs().mean(), self.weight)

    def scale(self) -> Tensor:
        """``E|W|`` for every output channel, [O], without gradient."""
        return self.weight.detach().abs().mean().expand(self.out_channels)


def apprentice_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    alpha: float = 1.0,
    beta: float = 0.5,
    gamma: float = 0.5,
) -> Tensor:
    """``alpha H(y, p_T) + beta H(y, p_A) + gamma H(z_T, p_A)`` (Eq. 1), a scalar: means of
    cross-entropies over N.

    Logits [N, classes] of student (p_A) and teacher (p_T), labels [N] of whole numbers.  The last
    term's targets are the teacher's probabilities and count as constants, so that the teacher
    learns from the labels alone (the first term) and is not drawn to its student.  ValueError where
    the two networks do not have the same classes.
    """
    if student_logits.shape != teacher_logits.shape:
        shapes = f"{tuple(student_logits.shape)} and {tuple(teacher_logits.shape)}"
        raise ValueError(
            f"logits of student and teacher have shapes {shapes}; both must have the same classes"
        )
    targets = teacher_logits.detach().softmax(1)
    return (
        alpha * F.cross_entropy(teacher_logits, labels)
        + beta * F.cross_entropy(student_logits, labels)
        + gamma * F.cross_entropy(student_logits, targets)
    )
