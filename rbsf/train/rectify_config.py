"""The settings of Algorithm 1."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar

from rbsf.train.adversarial import LOG, SQUARE
from rbsf.train.config import check_least, setting

NOT_NEGATIVE = ("lambda_", "lr_", "weight_decay")  # beginnings of settings that must be 0 or more
BOTH, STATISTICS, AFFINE = "both", "statistics", "affine"  # what a batch-norm learns in its pass


@dataclass
class RectifyConfig:
    """Algorithm 1's switches (R, G, B of Table 2), weights and learning rates."""

    TITLE: ClassVar[str] = "the method: Algorithm 1 of the paper"

    rectify: bool = setting(
        True, "Learn the matrices C and apply the kernel loss, which is R in the paper's Table 2"
    )
    gan: bool = setting(
        True, "Train discriminators on the feature maps, which is G in the paper's Table 2"
    )
    bn_pass: float = setting(
        0.1,
        "Train the batch-norms alone after each epoch, for this share of an epoch, which is B in"
        " the paper's Table 2; 0 leaves it out",
        metavar="SHARE",
    )
    bn_learns: str = setting(
        BOTH,
        "Let the batch-norms learn their statistics, their affine parameters, or both in that pass",
        choices=(BOTH, STATISTICS, AFFINE),
    )
    gan_sees: str = setting(
        "map",
        "Show the discriminators a single feature map at a time, or all maps of an image",
        choices=("map", "image"),
    )
    gan_loss: str = setting(
        SQUARE,
        "Deceive the discriminators by the square of Eq. 4, or by the log-likelihood",
        choices=(SQUARE, LOG),
    )
    norm_epochs: int = setting(
        -1,
        "After N epochs measure the batch-norms' statistics and freeze them, as at inference; with"
        " -1 each batch's own statistics are used to the end",
    )
    lambda_kernel: float = setting(1e-4, "Weigh the kernel loss by this, lambda1 of Eq. 3")
    lambda_adversarial: float = setting(0.1, "Weigh the adversarial loss by this, lambda2 of Eq. 4")
    lambda_match: float = setting(
        1.0,
        "Weigh the distance between the feature maps of student and teacher by this, which is not"
        " in the paper",
    )
    lambda_decay: float = setting(
        0.9, "Multiply lambda1 and lambda2 by this after each --lambda-epochs epochs"
    )
    lambda_epochs: int = setting(
        60, "Multiply lambda1 and lambda2 by --lambda-decay every N epochs"
    )
    lr_binary: float = setting(
        1e-3, "Train the real weights behind the signs at this rate, eta1", changeable=True
    )
    lr_real: float = setting(
        1e-3,
        "Train the real layers at this rate; 0 keeps them and their batch-norms as they are at the"
        " start",
        changeable=True,
    )
    lr_c: float = setting(1e-3, "Train the matrices C at this rate, eta2", changeable=True)
    lr_norm: float = setting(1e-3, "Train the batch-norms at this rate", changeable=True)
    lr_discriminator: float = setting(
        1e-3, "Train the discriminators at this rate", changeable=True
    )
    train_teacher: bool = setting(
        False, "Train the teacher beside the student, as Apprentice's scheme A does"
    )
    optimizer: str = setting(
        "adam",
        "Train by Adam, or by SGD with momentum 0.9; the discriminators are always trained by Adam",
        choices=("adam", "sgd"),
    )
    weight_decay: float = setting(
        0.0, "Let weights decay by this, but for those of the batch-norms"
    )

    def __post_init__(self) -> None:
        """Raise ValueError naming the field, its value and what would be valid."""
        for field in fields(RectifyConfig):
            if field.name.startswith(NOT_NEGATIVE):
                check_least(self, **{field.name: 0})
        if not 0 <= self.bn_pass <= 1:
            raise ValueError(f"bn_pass is {self.bn_pass}; it is a share of an epoch, 0 to 1")
        if self.norm_epochs < -1:
            raise ValueError(
                f"norm_epochs is {self.norm_epochs}; it must be 0 or more, or -1 for all epochs"
            )
        check_least(self, lambda_epochs=1)

    @property
    def compares_maps(self) -> bool:
        """Whether the student's feature maps are compared with the teacher's."""
        return self.gan or self.lambda_match > 0

    def lambda_factor(self, epoch: int) -> float:
        """The factor for lambda1 and lambda2 in `epoch` (from 0): the schedule of section 3.1."""
        return self.lambda_decay ** (epoch // self.lambda_epochs)
