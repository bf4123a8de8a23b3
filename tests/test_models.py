"""Classification networks: shapes, layers and sizes as documented, and refused options.

Every method works in every network.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rbsf.cost import count, total
from rbsf.layers import binary_layers
from rbsf.methods import METHODS
from rbsf.models import CLASSIFIERS, build
from rbsf.models.alexnet import slimmed
from rbsf.models.whole import STEP
from rbsf.weights import load_weights, save_weights

SMALL = {
    "resnet18": {"stages": "8-8-16-16", "stem": "cifar", "classes": 7},
    "wrn22": {"stages": "8-8-16-16", "classes": 7},
    "wrn40": {"stages": "4-4-8-8", "classes": 7},
    "lenet": {"classes": 7},
    "blocks": {"stages": "8-16", "depth": 2, "classes": 7},
}

SEVERAL_SCALES = ("abcnet", "xnor_k")  # methods that the network of blocks refuses


def images(name, number=2):
    shape = (1, 28, 28) if name == "lenet" else (3, 32, 32)
    return torch.randn(number, *shape, generator=torch.Generator().manual_seed(1))


def trained(name, method, **options):
    """A network whose statistics differ from those of a new one."""
    torch.manual_seed(2)
    net = build(name, method, **options)
    net.train()(images(name, 8))
    return net.eval()


@pytest.mark.parametrize(
    ("name", "options", "parameters", "bits"),
    [
        ("resnet18", {"stages": "32-32-64-128", "stem": "cifar", "classes": 100}, 754_788, 718_848),
        ("resnet18", {}, 11_720_040, 10_985_472),
        ("wrn22", {}, 4_373_348, 4_276_224),
        ("lenet", {}, 129_034, 124_928),
    ],
)
def test_networks_have_the_documented_numbers_of_weights(name, options, parameters, bits):
    net = build(name, "rbcn", **options)
    assert sum(layer.weight.numel() for layer in binary_layers(net).values()) == bits
    assert sum(p.numel() for p in net.parameters()) == parameters


@pytest.mark.parametrize(
    ("name", "binary", "shortcuts"), [("resnet18", 16, 3), ("wrn22", 18, 2), ("wrn40", 36, 2)]
)
def test_networks_have_the_documented_numbers_of_layers(name, binary, shortcuts):
    net = build(name, "rbcn")
    convs = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
    assert len(binary_layers(net)) == binary
    assert len([c for c in convs if c.kernel_size == (1, 1)]) == shortcuts
    assert len(convs) == binary + shortcuts + 1  # and the stem


@pytest.mark.parametrize("shortcut", ["conv", "block"])
def test_shortcuts_go_around_one_convolution_or_two(shortcut):
    net = trained("resnet18", "rbcn", **SMALL["resnet18"], shortcut=shortcut)
    x = torch.randn(1, 8, 6, 6)
    stage = net.stages[0]
    assert len(stage) == {"conv": 4, "block": 2}[shortcut]
    for norm in stage[0].norms:
        nn.init.zeros_(norm.weight), nn.init.zeros_(norm.bias)
    assert torch.equal(stage[0](x), x)


def test_a_binary_network_has_no_relu_but_its_twin_has():
    for method, found in (("", True), ("rbcn", False)):
        net = build("resnet18", method, **SMALL["resnet18"])
        assert any(isinstance(m, nn.ReLU) for m in net.modules()) == found


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_every_method_works_in_every_network(name, method, tmp_path):
    if name == "blocks" and method in SEVERAL_SCALES:
        with pytest.raises(ValueError, match=f"method '{method}' has more than one scale a filter"):
            build(name, method)
        return
    net = trained(name, method, **SMALL[name])
    loss = net.train()(images(name)).square().sum()
    loss.backward()
    assert all(layer.weight.grad.abs().sum() > 0 for layer in binary_layers(net).values())
    for layer in binary_layers(net).values():
        layer.constrain()
    assert total(count(net, images(name).shape[1:])).binary > 0
    net.eval()
    save_weights(net, name, tmp_path / "net.safetensors")
    loaded, model, _ = load_weights(tmp_path / "net.safetensors")
    assert model == name
    assert loaded.model_options == net.model_options
    with torch.no_grad():
        torch.testing.assert_close(loaded(images(name)), net(images(name)), atol=1e-4, rtol=1e-3)


def test_a_network_of_blocks_is_checked():
    for options, message in (
        ({"stages": "8-x"}, "stages is '8-x'; expected 2 numbers of channels"),
        ({"stages": 8}, "stages is 8"),
        ({"depth": 0}, "depth is 0; give 1 or more, and 32 blocks at most"),
        ({"depth": 40}, "depth is 40; give 1 or more"),
        ({"method_options": {"a": 1}}, "model 'blocks' takes no method options"),
    ):
        with pytest.raises(ValueError, match=message):
            build("blocks", "bireal", **options)
    assert not binary_layers(build("blocks"))


def test_maps_between_blocks_are_whole_numbers_of_steps():
    net = trained("blocks", "bireal", **SMALL["blocks"])
    with torch.no_grad():
        steps = net.blocks(net.stem(images("blocks"))) / STEP
    assert torch.equal(steps, steps.round())
    assert steps.shape == (2, 16, 16, 16)


def test_method_options_are_kept(tmp_path):
    net = trained(
        "lenet", "abcnet", classes=3, method_options={"weight_bases": 2, "activation_bases": 1}
    )
    save_weights(net, "lenet", tmp_path / "net.safetensors")
    loaded = load_weights(tmp_path / "net.safetensors")[0]
    assert [len(layer.terms()) for layer in binary_layers(loaded).values()] == [2, 2]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet", {}, "unknown model 'resnet'"),
        ("rbsf", {"stages": "1-2-3-4"}, "model 'rbsf' takes no options"),
        ("rbsf", {"width": 0}, "width is 0; give a factor"),
        ("siamfc", {"width": "half"}, "width is 'half'"),
        ("xnor", {"width": float("nan")}, "width is nan"),
        ("rbsf", {"width": 1e9}, "at most 4"),
        ("resnet18", {"stages": "32-64-128"}, "stages is '32-64-128'; expected 4 numbers"),
        ("wrn22", {"stages": "16-16-0-64"}, "expected 4 numbers"),
        ("resnet18", {"stem": "mnist"}, "stem is 'mnist'; known: cifar, imagenet"),
        ("wrn22", {"shortcut": "none"}, "shortcut is 'none'; known: conv, block"),
        ("lenet", {"stages": "8-8-8-8"}, "model 'lenet' has no stages"),
        ("lenet", {"method": "bnn"}, "unknown method 'bnn'"),
        (
            "lenet",
            {"method": "rbcn", "method_options": {"bases": 2}},
            "unknown method option bases",
        ),
    ],
)
def test_unknown_options_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        build(name, **options)


@pytest.mark.parametrize(
    ("width", "channels"),
    [
        (1.0, [96, 256, 384, 384, 256]),
        (0.5, [64, 128, 192, 192, 256]),
        (0.01, [32, 32, 32, 32, 256]),
    ],
)
def test_width_of_a_tracker_is_kept(width, channels, tmp_path):
    net = build("rbsf", width=width)
    assert [block.conv.out_channels for block in net.layers] == channels
    assert net.model_options == ({} if width == 1 else {"width": width})
    save_weights(net, "rbsf", tmp_path / "net.safetensors")
    assert [
        block.conv.out_channels for block in load_weights(tmp_path / "net.safetensors")[0].layers
    ] == channels


def test_slimmed_network_computes_a_part_of_the_wide_one():
    torch.manual_seed(0)
    wide = build("siamfc").eval()
    slim = slimmed(wide, 0.5).eval()
    kept = [*range(32), *range(48, 80)]  # of 96 channels, from both halves
    x = 255 * torch.rand(1, 3, 127, 127)
    with torch.no_grad():
        first = wide.layers[0](x)
        torch.testing.assert_close(slim.layers[0](x), first[:, kept])
        lost = [c for c in range(96) if c not in kept]
        first[:, lost] = 0  # channels that the slim network lacks
        expected = wide.layers[1](first)[:, [*range(64), *range(128, 192)]]
        torch.testing.assert_close(slim.layers[1](slim.layers[0](x)), expected)
        assert slim(x).shape == (1, 256, 6, 6)
    with pytest.raises(ValueError, match="give a teacher as wide as the student"):
        slimmed(slim, 1.0)


def test_a_file_with_foreign_options_is_refused(tmp_path):
    net = trained("lenet", "rbcn")
    net.model_options = {"stages": "8-8"}
    save_weights(net, "lenet", tmp_path / "net.safetensors")
    with pytest.raises(ValueError, match="does not fit the model 'lenet' it names"):
        load_weights(tmp_path / "net.safetensors")
