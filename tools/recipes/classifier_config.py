"""The settings of a classifier's training."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from rbsf.datasets.images.labelled import LABELLED
from rbsf.datasets.images.published import CHECKS
from rbsf.methods import METHODS
from rbsf.models import CLASSIFIERS, OWN_LAYERS
from rbsf.train.adversarial import SQUARE
from rbsf.train.config import check_least, from_settings, parse_config, section, setting
from rbsf.train.rectify_config import BOTH
from rbsf.train.run_config import LoopConfig, RunConfig, resumed

RESULT = "result.json"
FLOAT = "float"  # given as the method: the real network
AFTER, BEFORE = "after", "before"  # where maps are compared, beside the batch-norms
# Defaults of the rival methods: without RBCN's G and B. R stays on, since it weighs PCNN's own loss
# (its projection loss; the other rivals add none).
RIVAL = {"gan": False, "lambda_match": 0.0, "bn_pass": 0.0}
# Settings of Algorithm 1 that only train the real network.
PLAIN: dict[str, Any] = {
    "rectify": False,
    "gan": False,
    "bn_pass": 0.0,
    "bn_learns": BOTH,
    "gan_sees": "map",
    "gan_loss": SQUARE,
    "norm_epochs": -1,
    "lambda_kernel": 0.0,
    "lambda_adversarial": 0.0,
    "lambda_match": 0.0,
    "lambda_decay": 0.0,
    "lambda_epochs": 1,
    "lr_binary": 0.0,
    "lr_c": 0.0,
    "lr_discriminator": 0.0,
    "train_teacher": False,
}


@dataclass
class ClassifierConfig(RunConfig):
    """Everything about the training of a classifier."""

    UNIT: ClassVar[str] = "image"

    FIRST: ClassVar[tuple[str, ...]] = (
        "dataset",
        "root",
        "model",
        "method",
        "teacher",
        "out",
        "resume",
        "epochs",
        "batch_size",
        "device",
    )

    loop: LoopConfig = section(LoopConfig, batch_size=128)
    images: int = setting(0, "Learn from N images in an epoch; 0 takes each training image once")
    subset: int = setting(0, "Train on N images only, equally many of each class; 0 takes all")
    dataset: str = setting("cifar100", "Train on this data set", choices=tuple(LABELLED))
    root: str = setting(
        "data",
        "Read the data set from this folder",
        decisive=False,
        path=True,
    )
    model: str = setting("resnet18", "Train this network", choices=tuple(CLASSIFIERS))
    method: str = setting(
        "rbcn",
        "Binarize the network by this method, or with float not at all. All but rbcn go without"
        " gan, lambda_match and bn_pass, and scheme_a has train_teacher and a random start, unless"
        " a file or a flag asks for something else",
        choices=(FLOAT, *METHODS),
    )
    method_options: list[str] = setting(
        list,
        "Give the method this option, such as weight_bases=5; repeatable",
        metavar="NAME=VALUE",
    )
    stages: str = setting(
        "", "Give the network's stages these channels, such as 32-32-64-128; none: the model's own"
    )
    depth: int = setting(0, "Give each stage of blocks N layers; 0 takes 4", metavar="N")
    stem: str = setting(
        "", "Give resnet18 the first layer imagenet (7 x 7) or cifar (3 x 3); none: imagenet's"
    )
    shortcut: str = setting(
        "",
        "Lead a shortcut around every convolution (conv, as Bi-Real Net) or around every two"
        " (block); none: the model's own",
    )
    lambda_distill: float = setting(
        0.0, "Weigh the divergence from the teacher's class probabilities by this"
    )
    start: str = setting(
        "teacher",
        "Start a 1-bit network from the teacher's weights, or from random ones",
        choices=("teacher", "random"),
    )
    compare: str = setting(
        AFTER,
        "Compare the feature maps of student and teacher after the batch-norm of each binary"
        " convolution, or before it",
        choices=(AFTER, BEFORE),
    )
    size: int = setting(
        0,
        "Cut the images of a folder to so many pixels in width and height; 0 takes 224, or 64 for"
        " tiny-imagenet",
    )
    augment: bool = setting(
        True, "Crop images at random, and mirror them where the data set allows it"
    )
    check: str = setting(
        "auto",
        "Compare the files of the data set with their published checksums: strict always, off"
        " never, auto where a file has the published size",
        choices=CHECKS,
        changeable=True,
        decisive=False,
    )
    skip_broken: bool = setting(
        False, "Leave out the images that cannot be read", changeable=True, decisive=False
    )
    out: str = setting(
        "runs/classifier",
        "Write weights, checkpoint and logs to this folder",
        changeable=True,
        decisive=False,
        path=True,
    )

    def __post_init__(self) -> None:
        """Raise ValueError naming the field, its value and what would be valid."""
        super().__post_init__()
        check_least(self, images=0, subset=0, size=0, depth=0)
        self._check_teaching()
        self._check_own_layers()
        if self.compare == BEFORE and not self.algorithm.lr_real:
            raise ValueError("compare is before, which needs real layers that learn; raise lr_real")
        self.network_options(1)

    def _check_teaching(self) -> None:
        """Raise ValueError if the method does not fit the settings of its teacher."""
        check_least(self, lambda_distill=0)
        train_teacher = self.algorithm.train_teacher
        if self.method == FLOAT and (self.learns_from_teacher or train_teacher):
            needs = "gan, lambda_match, lambda_distill or train_teacher want a teacher"
            raise ValueError(f"method is float, but {needs}; switch them off")
        if train_teacher and self.learns_from_teacher:
            without = "goes without gan, lambda_match and lambda_distill"
            raise ValueError(f"train_teacher {without}; switch them off")
        if self.method == "scheme_a" and not train_teacher:
            raise ValueError(
                "method is scheme_a, which learns beside its teacher; switch train_teacher on"
            )

    def _check_own_layers(self) -> None:
        """Raise ValueError for what a network that is built with 1-bit layers cannot do."""
        if self.model not in OWN_LAYERS or not self.binary:
            return
        if self.needs_twin or self.algorithm.train_teacher:
            raise ValueError(
                f"model is {self.model}, which has no float twin to compare with; give --start"
                " random, --no-gan, --lambda-match 0 and --no-train-teacher"
            )

    @property
    def binary(self) -> bool:
        """Whether the network is a 1-bit one."""
        return self.method != FLOAT

    @property
    def needs_teacher(self) -> bool:
        """Whether a float network has to be trained first."""
        if not self.binary or self.algorithm.train_teacher:
            return False
        return self.learns_from_teacher or self.start == "teacher"

    @property
    def needs_twin(self) -> bool:
        """Whether the teacher must be the network's own float twin."""
        return self.algorithm.compares_maps or self.start == "teacher"

    @property
    def learns_from_teacher(self) -> bool:
        """Whether the student learns from a teacher's maps or class probabilities."""
        return self.algorithm.compares_maps or self.lambda_distill > 0

    def network_options(self, classes: int) -> dict[str, Any]:
        """Arguments of `rbsf.models.build` besides the model's name.

        Raises ValueError if an item of method_options is not of the form NAME=VALUE.
        """
        names = ("stages", "depth", "stem", "shortcut")
        given: dict[str, Any] = {name: getattr(self, name) for name in names if getattr(self, name)}
        given |= {"classes": classes, "method": self.method if self.binary else ""}
        return {**given, "method_options": self._parsed_method_options()}

    def _parsed_method_options(self) -> dict[str, Any]:
        parsed = {}
        for option in self.method_options:
            name, equals, value = option.partition("=")
            if not (name and equals and value):
                raise ValueError(
                    f"method_options holds {name!r}; expected NAME=VALUE, such as weight_bases=5"
                )
            parsed[name] = _value(value)
        return parsed

    def float_twin(self) -> ClassifierConfig:
        """The configuration of the teacher: the same training, of the real network.

        It leaves out the settings that only concern the student.
        """
        plain = dataclasses.replace(self.algorithm, **PLAIN)
        return dataclasses.replace(
            self,
            algorithm=plain,
            method=FLOAT,
            method_options=[],
            start="random",
            teacher=None,
            compare=AFTER,
            lambda_distill=0.0,
        )

    @property
    def result_file(self) -> str:
        """The file that a training writes last."""
        return RESULT

    def decisive(self) -> dict[str, Any]:
        """See `RunConfig.decisive`; for a folder of images they include its path."""
        if not self.binary:
            twin = self.float_twin()
            if self != twin:
                return twin.decisive()  # settings that the twin leaves out decide nothing here
        settings = super().decisive()
        if self.dataset == "folder":
            # The name of such a data set says nothing about its images.
            settings["root"] = str(Path(self.root).resolve())
        return settings

    def folder_name(self) -> str:
        """The folder of trainings with these settings, inside the folder of a table.

        Float networks, which tables share, go to `teachers/`.
        """
        name = f"{self.dataset}-{self.model}-{self.method}-{self.digest()}"
        return name if self.binary else f"teachers/{name}"


def _value(text: str) -> int | float | bool | str:
    """The number or truth value in `text`, else the text itself."""
    try:
        value = json.loads(text.lower())
    except ValueError:
        return text
    return value if isinstance(value, (int, float, bool)) else text


def defaults_of(method: str, model: str) -> dict[str, Any]:
    """Defaults for a method and a model that replace those of `ClassifierConfig`.

    The latter are RBCN's for a network whose layers can be compared with its float twin's.
    """
    if model in OWN_LAYERS:
        return {**RIVAL, "start": "random"}
    if method == ClassifierConfig.method:
        return {}
    if method == "scheme_a":
        return {**RIVAL, "train_teacher": True, "start": "random"}
    return dict(RIVAL)


def with_defaults(settings: dict[str, Any]) -> ClassifierConfig:
    """The configuration of `settings`; missing settings get those of method and model."""
    method = settings.get("method", ClassifierConfig.method)
    model = settings.get("model", ClassifierConfig.model)
    return from_settings(ClassifierConfig, defaults_of(method, model) | settings)


def read_config(
    argv: list[str] | None, description: str = "", example: str = ""
) -> ClassifierConfig:
    """Read the method's defaults, then --config, then flags; later ones override earlier ones.

    On --resume, the settings of the training replace the method's defaults.
    """
    settings = parse_config(ClassifierConfig, argv, description, example=example)
    if settings.get("resume"):
        return resumed(ClassifierConfig, settings)
    config = with_defaults(settings)
    if config.teacher and not config.binary:
        raise ValueError(f"--teacher {config.teacher}: a float network has none; leave it out")
    return config
