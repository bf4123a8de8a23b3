"""Networks by name, all from one builder."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

TRACKERS = {
    "siamfc": "",
    "xnor": "xnor",
    "rbsf": "rbcn",
}  # SiamFC's backbone: name -> method ("" = real)
CLASSIFIERS = {  # name -> function in rbsf.models
    "resnet18": "resnet:resnet18",
    "wrn22": "wide_resnet:wrn22",
    "wrn40": "wide_resnet:wrn40",
    "lenet": "lenet:LeNet",
}
WHOLE = {
    "rbsf2": "rbsf2:RBSF2"
}  # networks of whole numbers, which know their binarization method themselves
MODELS = (*TRACKERS, *CLASSIFIERS, *WHOLE)
POOLED = {
    *TRACKERS,
    "lenet",
}  # a maximum is taken of their maps, which is seldom below 0, between batch-norm and sign


def build(
    name: str, method: str = "", method_options: dict[str, Any] | None = None, **options: Any
) -> nn.Module:
    """Build a network with random weights; it keeps its `model_name` and `model_options`, by which
    to build it again.

    Trackers, SiamFC's backbone: `siamfc` real, `rbsf` with RBConv, `xnor` with XNOR-Net
    convolutions; the only option is `width`, see `rbsf.models.alexnet`. Classifiers: `method` is
    the binarization method ("" = real, the float twin) with `method_options` for its layers;
    `options` are those of the function that CLASSIFIERS names.  First convolution, 1x1 shortcuts,
    classifier and batch-norms stay real. `rbsf2`: backbone and head of RB-SF 2, see
    `rbsf.models.rbsf2`. ValueError with what would be valid for an unknown name, method or option.
    """
    from rbsf.conversion import binarize

    if name not in MODELS:
        raise ValueError(f"unknown model {name!r}; known: {', '.join(MODELS)}")
    net_options = {**options}
    if name in TRACKERS:
        if method or method_options or options.keys() - {"width"}:
            raise ValueError(f"model {name!r} takes no options but width")
        net_options = {
            key: value for key, value in options.items() if value != 1
        }  # files of old name none
        method, place = TRACKERS[name], "alexnet:AlexNet"
    else:
        place = CLASSIFIERS[name] if name in CLASSIFIERS else WHOLE[name]
        net_options |= {"method": method} | (
            {"method_options": method_options} if method_options else {}
        )
    module, function = place.split(":")
    arguments = {"method": method or "bireal"} if name in WHOLE else {"for_binary": bool(method)}
    try:
        net = getattr(import_module(f"rbsf.models.{module}"), function)(**arguments, **options)
    except TypeError as error:  # an option that the function has not, or of another type
        raise ValueError(f"model {name!r}: {error}") from None
    if method and name not in WHOLE:
        binarize(net, method, input_norm=name in POOLED, options=method_options)
    net.model_name, net.model_options = name, net_options
    return net
