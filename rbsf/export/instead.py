"""Replacements for layers and calls that have no packed form: one table for all messages."""

from __future__ import annotations

NOTHING = "leave it out, and compute it from the results"

INSTEAD = {
    # modules, by their class
    "GELU": "use nn.ReLU or nn.PReLU",
    "SiLU": "use nn.ReLU or nn.PReLU",
    "Mish": "use nn.ReLU or nn.PReLU",
    "Hardswish": "use nn.ReLU or nn.PReLU",
    "ELU": "use nn.ReLU or nn.PReLU",
    "CELU": "use nn.ReLU or nn.PReLU",
    "SELU": "use nn.ReLU or nn.PReLU",
    "Softplus": "use nn.ReLU",
    "RReLU": "use nn.PReLU",
    "LeakyReLU": "use nn.PReLU, whose slope `init` can be the same",
    "Tanh": "use nn.Hardtanh",
    "Softsign": "use nn.Hardtanh",
    "Hardsigmoid": "use nn.Sigmoid",
    "Softmax": NOTHING,
    "Softmax2d": NOTHING,
    "LogSoftmax": NOTHING,
    "LayerNorm": "use nn.BatchNorm2d, or nn.BatchNorm1d behind nn.Flatten",
    "GroupNorm": "use nn.BatchNorm2d",
    "InstanceNorm2d": "use nn.BatchNorm2d",
    "LocalResponseNorm": "use nn.BatchNorm2d",
    "ConvTranspose2d": "use nn.Upsample and nn.Conv2d",
    "PixelShuffle": "use nn.Upsample",
    "UpsamplingNearest2d": "use nn.Upsample",
    "UpsamplingBilinear2d": "use nn.Upsample, which repeats the nearest pixel",
    "AdaptiveMaxPool2d": "use nn.MaxPool2d over the whole map, or nn.AdaptiveAvgPool2d(1)",
    "LPPool2d": "use nn.AvgPool2d",
    "ZeroPad2d": "use the padding of nn.Conv2d",
    "ConstantPad2d": "use the padding of nn.Conv2d",
    "ReflectionPad2d": "use the padding of nn.Conv2d, which is of zeros",
    "ReplicationPad2d": "use the padding of nn.Conv2d, which is of zeros",
    "Conv1d": "use nn.Conv2d on images of one row",
    "AlphaDropout": "use nn.Dropout",
    "Dropout1d": "use nn.Dropout",
    "Dropout3d": "use nn.Dropout",
    # functions and methods that a forward calls
    "gelu": "use nn.ReLU or nn.PReLU",
    "silu": "use nn.ReLU or nn.PReLU",
    "mish": "use nn.ReLU or nn.PReLU",
    "hardswish": "use nn.ReLU or nn.PReLU",
    "elu": "use nn.ReLU or nn.PReLU",
    "leaky_relu": "use nn.PReLU, whose slope `init` can be the same",
    "prelu": "use the module nn.PReLU",
    "tanh": "use nn.Hardtanh",
    "hardsigmoid": "use nn.Sigmoid",
    "softmax": NOTHING,
    "log_softmax": NOTHING,
    "argmax": NOTHING,
    "conv2d": "use the module nn.Conv2d",
    "linear": "use the module nn.Linear",
    "batch_norm": "use the module nn.BatchNorm2d",
    "layer_norm": "use nn.BatchNorm2d, or nn.BatchNorm1d behind nn.Flatten",
    "group_norm": "use nn.BatchNorm2d",
    "conv_transpose2d": "use nn.Upsample and nn.Conv2d",
    "pad": "use the padding of nn.Conv2d",
    "dropout": "give it training=self.training, or use nn.Dropout",
    "squeeze": "use nn.Flatten",
    "sub": "use a sum, and let a convolution learn the sign",
    "truediv": "put the factor into the weights of a layer",
    "neg": "put the sign into the weights of a layer",
    "mul": "put the factor into the weights of a layer",
    "add": "put the number into the bias of a layer",
    "pow": "use the product of the map with itself, x * x",
    "clamp": "give it two numbers, min and max",
    "clamp_": "give it two numbers, min and max",
}


def advice_for(name: str) -> str:
    """What to use instead of the class or call `name`; empty if the table has no entry."""
    return INSTEAD.get(name, "")
