"""The cost report: Table 6 of the paper, and small networks counted by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rbsf.conversion import binarize
from rbsf.cost import LayerCost, count, total
from rbsf.models import build
from rbsf.models.resnet import Residual, ResNet
from rbsf.tools.cost import build_pair, layer_of, main
from rbsf.weights import save_weights

SHAPE = (3, 224, 224)


@pytest.fixture(scope="module")
def resnet18():
    return [total(count(net, SHAPE)) for net in build_pair("resnet18")]


def test_table_6_of_the_paper_comes_out(resnet18):
    binary, real = resnet18
    assert real.bits == 374_064_384  # the paper: 374.1 Mbit
    assert real.multiplications == 1_814_073_344  # 1.81e9
    assert binary.bits == 33_514_752
    assert binary.bits == pytest.approx(33.7e6, rel=0.01)
    assert binary.multiplications == pytest.approx(1.67e8, rel=0.001)
    assert real.bits / binary.bits == pytest.approx(11.10, rel=0.01)
    assert round(real.multiplications / binary.multiplications, 2) == 10.86


def test_1_bit_multiplications_of_resnet18_are_the_papers(resnet18):
    binary, real = resnet18
    assert (binary.binary, binary.real) == (1_676_279_808, 140_804_096)
    assert real.binary == 0


def test_blocks_cost_what_is_counted_by_hand():
    net = build("blocks", "bireal", stages="4-8", depth=1, classes=3)
    second = [layer for layer in count(net, (3, 8, 8)) if layer.name.startswith("blocks.1")]
    assert second == [
        LayerCost("blocks.1.mix.0", "batch-norm", (4, 4, 4), 32 * 8, 64, 0),
        LayerCost("blocks.1.mix.2", "8-bit convolution", (8, 4, 4), 8 * 32 + 32 * 8, 128 * 4, 0),
        LayerCost("blocks.1.sums.conv.norm", "threshold", (4, 8, 8), 32 * 4, 0, 0),
        LayerCost("blocks.1.sums", "1-bit convolution", (8, 4, 4), 8 * 36, 0, 128 * 36),
        LayerCost("blocks.1.norm", "batch-norm", (8, 4, 4), 32 * 16, 128, 0),
        LayerCost("blocks.1.slope", "PReLU", (8, 4, 4), 32 * 8, 128, 0),
    ]


def test_rbsf2_is_counted_with_its_head(capsys):
    main(["--model", "rbsf2"])
    lines = capsys.readouterr().out.splitlines()
    (correlation,) = (line.split() for line in lines if line.startswith("head.correlation"))
    products = 64 * 16 * 16 * 96  # a value sums up the products of 96 features
    assert correlation[-2:] == [f"{products:,}", "0"]
    (total,) = (line.split() for line in lines if line.startswith("total"))
    assert total[1:] == ["3,115,168", "389,396", "39,315,648", "872,939,520"]


def small():
    layers = [
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.Conv2d(4, 8, 3, groups=2, bias=False),
        nn.BatchNorm2d(8),
    ]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(8 * 4 * 4, 2))


def test_layers_cost_what_is_counted_by_hand():
    net = small()
    binarize(net, "rbcn", input_norm=False)
    assert count(net, (3, 8, 8)) == [
        LayerCost("0", "convolution", (4, 6, 6), 32 * (4 * 27 + 4), 144 * 27, 0),
        LayerCost("1", "batch-norm", (4, 6, 6), 32 * 8, 0, 0),  # folds into the convolution
        LayerCost("2", "1-bit convolution", (8, 4, 4), 8 * 18, 128, 128 * 18),
        LayerCost("3", "batch-norm", (8, 4, 4), 32 * 16, 128, 0),
        LayerCost("5", "linear", (2,), 32 * (128 * 2 + 2), 256, 0),
    ]


def test_a_norm_in_front_of_the_sign_folds_into_the_one_before():
    net = small()
    binarize(net, "xnor", input_norm=True)
    costs = {layer.name: layer for layer in count(net, (3, 8, 8))}
    assert (costs["2.norm"].bits, costs["2.norm"].real) == (256, 0)


@pytest.mark.parametrize(
    ("method", "options", "bits", "real", "binary"),
    [  # 8 filters of 18 weights, 8 x 4 x 4 values
        ("xnor", {}, 144, 128, 128 * 18),
        ("xnor_k", {}, 144, 128 + 128 + 16, 128 * 18),  # scale, K, and the 16 values of K
        ("binarynet", {}, 144, 0, 128 * 18),  # no scale
        ("pcnn", {"projections": 4}, 144, 128, 128 * 18),  # projections cost nothing here
        ("abcnet", {"weight_bases": 2, "activation_bases": 3}, 2 * 144, 6 * 128, 6 * 128 * 18),
    ],
)
def test_methods_cost_what_is_counted_by_hand(method, options, bits, real, binary):
    net = small()
    binarize(net, method, input_norm=False, options=options)
    assert count(net, (3, 8, 8))[2] == LayerCost(
        "2", "1-bit convolution", (8, 4, 4), bits, real, binary
    )


class Branches(nn.Module):
    """Two convolutions, the second one binary, whose batch-norms come after both."""

    def __init__(self, change):
        super().__init__()
        self.change = change
        self.stem = nn.Conv2d(3, 4, 1, bias=False)
        self.real, self.binary = (nn.Conv2d(4, 4, 1, bias=False) for _ in range(2))
        self.real_norm, self.binary_norm = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        binarize(self, "xnor", skip=["real"], skip_1x1=False, input_norm=False)

    def forward(self, x):
        x = self.stem(x)
        real, binary = self.real(x), self.binary(x)
        self.change(real)
        return self.real_norm(real) + self.binary_norm(binary)


@pytest.mark.parametrize(
    ("change", "real"),
    [
        (lambda x: x, 0),  # folds into the convolution
        (lambda x: x.relu_(), 4 * 25),
        (lambda x: x.mul_(0.5), 4 * 25),
    ],
)
def test_a_batch_norm_folds_into_what_it_reads_where_nothing_changed_that(change, real):
    costs = {layer.name: layer.real for layer in count(Branches(change).eval(), (3, 5, 5))}
    assert costs == {
        "stem": 12 * 25,
        "real": 16 * 25,
        "binary": 4 * 25,
        "real_norm": real,
        "binary_norm": 4 * 25,
    }


@pytest.mark.parametrize("relu", [nn.ReLU(inplace=True), nn.ReLU()])
def test_in_place_activations_change_no_cost(relu):
    layers = [nn.Conv2d(3, 4, 3), relu, nn.BatchNorm2d(4), nn.Conv2d(4, 8, 3, bias=False), relu]
    net = nn.Sequential(*layers, nn.BatchNorm2d(8))
    binarize(net, "xnor", input_norm=False)
    assert [layer.real for layer in count(net, (3, 8, 8))] == [144 * 27, 144, 128, 128]


def test_a_layer_that_is_called_twice_is_stored_once():
    conv = nn.Conv2d(3, 3, 1, bias=False)
    assert [(layer.bits, layer.real) for layer in count(nn.Sequential(conv, conv), (3, 2, 2))] == [
        (9 * 32, 36),
        (0, 36),
    ]


def test_a_layer_that_no_input_reaches_is_named():
    net = nn.Sequential(nn.Conv2d(3, 3, 1, bias=False))
    net[0].spare = nn.Linear(2, 2)
    with pytest.warns(UserWarning, match=r"not counted, since no input reaches it: 0\.spare"):
        assert len(count(net, (3, 2, 2))) == 1


def test_the_bias_of_a_binary_convolution_has_32_bits():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 8, 3))
    binarize(net, "xnor", input_norm=False)
    assert count(net, (3, 8, 8))[1].bits == 8 * 36 + 8 * 32


def test_bits_make_whole_bytes_and_costs_add_up():
    layer = LayerCost("a", "1-bit convolution", (1, 1, 1), 13, 5, 128)
    assert (layer.bytes, layer.multiplications) == (2, 7.0)
    assert total([layer, layer]) == LayerCost("total", "", (), 26, 10, 256)


def test_counting_leaves_the_network_as_it_was():
    net = small().train()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    count(net, (3, 8, 8))
    assert net.training
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert not any(module._forward_hooks for module in net.modules())


def test_an_unknown_layer_is_named():
    with pytest.raises(ValueError, match="layer 1 is a GroupNorm"):
        count(nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4)), (3, 8, 8))


def test_resnet_has_a_shortcut_around_every_convolution():
    """Batch-norms that give 0 silence the residual branches; the shortcuts are left."""
    net = ResNet(((8, 2), (16, 2)), classes=5, for_binary=True).eval()
    for module in net.stages.modules():
        if isinstance(module, Residual):
            nn.init.zeros_(module.norms[-1].weight)
    x = torch.randn(2, 3, 33, 47)
    stem = net.stem(x)
    assert net(x).shape == (2, 5)
    assert torch.equal(net.stages[0](stem), stem)
    assert net.stages(stem).shape == (2, 16, 5, 6)
    assert torch.equal(net.stages(stem), net.stages[1][0].shortcut(stem))


def test_resnet_trains_in_both_forms():
    for for_binary in (True, False):
        net = ResNet(((8, 2), (16, 2)), classes=5, for_binary=for_binary)
        if for_binary:
            changes = binarize(net, "rbcn", input_norm=False)
            assert [c.name for c in changes if c.kept] == ["stem.0", "stages.1.0.shortcut.1"]
        net(torch.randn(2, 3, 32, 32)).square().sum().backward()
        assert all(p.grad is not None for name, p in net.named_parameters())
        assert any(isinstance(m, nn.ReLU) for m in net.modules()) != for_binary


def test_tool_prints_the_table(capsys):
    main(["--model", "resnet18"])
    out = capsys.readouterr().out
    shortcut = "stages.1.0.shortcut.1  convolution        128 x 28 x 28"
    assert f"{shortcut}      262,144     32,768    6,422,528" in out
    assert out.endswith(
        "weights: 33.5 Mbit, float 374.1 Mbit: 11.16x smaller\n"
        "multiplications: 1.67e+08, float 1.81e+09: 10.86x fewer\n"
    )


@pytest.mark.parametrize("model", ["wrn22", "lenet"])
def test_tool_counts_and_measures_classifiers(model, capsys):
    main(["--model", model, "--method", "bireal", "--measure", "--repeat", "1"])
    out = capsys.readouterr().out
    assert "packed ms" in out
    assert "1-bit convolution" in out


def test_tool_measures_every_convolution_of_a_tracker(capsys):
    main(["--model", "rbsf", "--size", "127", "--measure", "--repeat", "1"])
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if "convolution" in line]
    assert [row[0] for row in rows] == [f"layers.{number}.conv" for number in range(5)]
    # Seconds have a decimal point, counts have none.
    assert all("." in number and float(number) > 0 for row in rows for number in row[-2:])


@pytest.mark.parametrize(
    ("node", "layer"),
    [
        ("a.1", "a.1"),
        ("a.1.sum.0", "a.1"),
        ("a.1.norm", "a.1.norm"),
        ("a.10.sign.0", "a.10"),
        ("add", ""),
        ("normalise", ""),
    ],
)
def test_nodes_of_a_packed_network_are_those_of_a_layer(node, layer):
    assert layer_of(node, ["a.1.norm", "a.1", "a.10"]) == layer


def test_tool_takes_trained_weights(tmp_path, capsys):
    net = build(
        "lenet", "abcnet", classes=5, method_options={"weight_bases": 2, "activation_bases": 1}
    ).eval()
    save_weights(net, "lenet", tmp_path / "net.safetensors")
    main(["--weights", str(tmp_path / "net.safetensors")])
    assert "102,400" in capsys.readouterr().out  # 2 bases of 64 x 32 x 5 x 5 bits
    save_weights(build("lenet", classes=5), "lenet", tmp_path / "float.safetensors")
    with pytest.raises(ValueError, match="a float network"):
        main(["--weights", str(tmp_path / "float.safetensors")])


def test_a_narrow_tracker_and_its_narrow_twin(tmp_path, capsys):
    save_weights(build("rbsf", width=0.5).eval(), "rbsf", tmp_path / "net.safetensors")
    main(["--weights", str(tmp_path / "net.safetensors")])
    out = capsys.readouterr().out
    assert "102,400" in out  # 128 x 32 x 5 x 5 bits


@pytest.mark.parametrize("flags", [["--model", "rbsf2"], ["--weights", "rbsf2"]])
def test_tool_refuses_a_method_that_would_not_count(flags):
    with pytest.raises(ValueError, match="--method is for classifiers"):
        main([*flags, "--method", "xnor"])


def test_tool_refuses_a_size_that_does_not_suit():
    with pytest.raises(ValueError, match="--size 50 does not suit rbsf"):
        main(["--model", "rbsf", "--size", "50"])
    with pytest.raises(ValueError, match="4096 pixels at most"):
        main(["--model", "rbsf", "--size", "5000"])
