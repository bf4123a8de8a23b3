"""Networks by name, all from one builder."""

from __future__ import annotations

from importlib import import_module
from inspect import signature
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

EXEMPLAR_SIZE = 127  # pixels, side of the target's crop (SiamFC, section 2.4)
SEARCH_SIZE = 255  # pixels, side of the search crop, at the same scale

TRACKERS = {"siamfc": "", "xnor": "xnor", "rbsf": "rbcn"}  # SiamFC backbones: method, "" = real
CLASSIFIERS = {  # name -> "file:function" in rbsf.models
    "resnet18": "resnet:resnet18",
    "wrn22": "wide_resnet:wrn22",
    "wrn40": "wide_resnet:wrn40",
    "lenet": "lenet:LeNet",
    "blocks": "block_net:BlockNet",
}
WHOLE = {"rbsf2": "rbsf2:RBSF2"}  # trackers with a head, whose maps are whole numbers
OWN_LAYERS = {"rbsf2", "blocks"}  # networks that are built with the layers of a method
PLACES = dict.fromkeys(TRACKERS, "alexnet:AlexNet") | CLASSIFIERS | WHOLE
MODELS = tuple(PLACES)

# These networks pool between batch-norm and sign. A maximum is seldom below 0, so they need a
# batch-norm in front of the sign.
POOLED = {*TRACKERS, "lenet"}


def build(
    name: str, method: str = "", method_options: dict[str, Any] | None = None, **options: Any
) -> nn.Module:
    """Build a network with random weights.

    It keeps its `model_name` and `model_options`, from which it can be built again. There are

    - trackers, SiamFC's backbone: `siamfc` is real, `rbsf` has RBConv and `xnor` XNOR-Net
      convolutions. The only option is `width`, see `rbsf.models.alexnet`.
    - classifiers: `method` is the binarization method ("" = real, the float twin), and
      `method_options` are for its layers. `options` are those of the function that CLASSIFIERS
      names. The first convolution, 1x1 shortcuts, the classifier and batch-norms stay real.
    - `rbsf2`: backbone and head of RB-SF 2, see `rbsf.models.rbsf2`.

    Raises ValueError for an unknown name, method or option.
    """
    if name not in MODELS:
        raise ValueError(f"unknown model {name!r}; known: {', '.join(MODELS)}")
    if name in TRACKERS:
        if method or method_options or options.keys() - {"width"}:
            raise ValueError(f"model {name!r} takes no options but width")
        method = TRACKERS[name]
        # Older files do not name the usual width, so it is left out.
        model_options = {key: value for key, value in options.items() if value != 1}
    else:
        model_options = options | {"method": method}
        if method_options:
            model_options["method_options"] = method_options
    net = _build(name, method, method_options, options)
    net.model_name, net.model_options = name, model_options
    return net


def _build(
    name: str, method: str, method_options: dict[str, Any] | None, options: dict[str, Any]
) -> Any:
    """As `build`, but trackers have a method, too."""
    from rbsf.conversion import binarize

    module, _, function = PLACES[name].partition(":")
    make = getattr(import_module(f"rbsf.models.{module}"), function)
    unknown = options.keys() - signature(make).parameters.keys()
    if unknown:
        raise ValueError(f"model {name!r} has no {', '.join(sorted(unknown))}; leave it out")
    try:
        if name in OWN_LAYERS:
            if method_options:
                raise ValueError(f"model {name!r} takes no method options")
            return make(**({"method": method} if method else {}), **options)
        net = make(for_binary=bool(method), **options)
    except TypeError as error:  # the function lacks an option, or its type is wrong
        raise ValueError(f"model {name!r}: {error}") from None
    if method:
        binarize(net, method, input_norm=name in POOLED, options=method_options)
    return net
