"""Packed RB-SF 2 passes whole numbers from layer to layer, bit for bit as PyTorch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_rbsf2 import SMALL, trained

from rbsf.engine.cpu import available_isas
from rbsf.engine.node import Node
from rbsf.engine.run import Engine
from rbsf.export.compare import Exported
from rbsf.export.pack import export_float_tracker
from rbsf.export.whole import lift_scales
from rbsf.models import build


@pytest.fixture(scope="module")
def exported() -> Exported:
    return export_float_tracker(trained(build("rbsf2", **SMALL)).backbone, "rbsf2")  # type: ignore[arg-type]


@pytest.mark.parametrize("isa", available_isas())
def test_features_are_pytorchs_to_the_bit(exported: Exported, isa: str) -> None:
    crops = np.random.default_rng(0).integers(0, 256, (2, 127, 127, 3), np.uint8)
    with torch.inference_mode():
        expected = exported.net(torch.from_numpy(crops).permute(0, 3, 1, 2).float()).numpy()
    found = Engine(exported.packed, isa=isa)(crops)
    assert found.shape == (2, 16, 8, 8)
    np.testing.assert_array_equal(found, expected)
    assert found.std() > 0.1


def test_no_operation_differs(exported: Exported) -> None:
    agreement = exported.compare()
    agreement.check()
    assert str(agreement).startswith("0 of ")
    assert max(found.largest for found in agreement.differences) == 0


def test_shortcuts_are_whole_numbers(exported: Exported) -> None:
    packed = exported.packed
    adds = [packed.maps[node.name] for node in packed.nodes if node.op == "add"]
    assert [(add.kind, add.dtype.name) for add in adds] == [("whole", "int16")] * 3
    signs = [node for node in packed.nodes if node.op == "sign"]
    assert {packed.maps[node.inputs[0]].kind for node in signs} == {"whole"}
    assert {node.attributes["border"] for node in packed.nodes if node.op == "conv_bits"} == {1}


# ---- scales that move


def scale(name: str, source: str, factor: float) -> Node:
    return Node(name, "affine", (source,), {}, {"scale": np.array([factor])})


IMAGE = Node("image", "input", (), {})
START = [
    IMAGE,
    Node("a", "round", ("image",)),
    Node("b", "round", ("image",)),
    scale("as", "a", 0.5),
]


def lifted(*nodes: Node) -> list[tuple[str, str, tuple[str, ...]]]:
    return [(node.name, node.op, node.inputs) for node in lift_scales([*START, *nodes])]


def test_a_sum_of_maps_with_one_scale_is_scaled_afterwards() -> None:
    total, end = Node("sum", "add", ("as", "bs")), Node("end", "relu", ("sum",))
    assert lifted(scale("bs", "b", 0.5), total, end) == [
        ("image", "input", ()),
        ("a", "round", ("image",)),
        ("b", "round", ("image",)),
        ("sum.steps", "add", ("a", "b")),
        ("sum", "affine", ("sum.steps",)),
        ("end", "relu", ("sum",)),
    ]


@pytest.mark.parametrize(
    "other", [scale("bs", "b", 0.25), scale("bs", "b", -0.5), Node("bs", "relu", ("b",))]
)
def test_a_sum_of_maps_with_other_scales_stays(other: Node) -> None:
    assert lifted(other, Node("sum", "add", ("as", "bs")))[-1] == ("sum", "add", ("as", "bs"))


def test_a_scale_and_its_inverse_are_gone() -> None:
    expected = [("image", "input", ()), ("a", "round", ("image",)), ("end", "round", ("a",))]
    assert lifted(scale("back", "as", 2.0), Node("end", "round", ("back",))) == expected


def test_signs_and_convolutions_take_a_scale_up() -> None:
    scaling = {"scale": np.array([2.0, 4.0]), "bias": np.array([1.0, 1.0])}
    weights = {"weight": np.full((1, 1, 1, 2), 3.0), "bias": np.zeros(1)}
    sign, conv = Node("s", "sign", ("as",), {}, scaling), Node("c", "conv", ("as",), {}, weights)
    nodes = lift_scales([*START, sign, conv, Node("e", "add", ("s", "c"))])
    found = {node.name: node for node in nodes}
    assert found["s"].inputs == found["c"].inputs == ("a",)
    assert found["s"].tensors["scale"].tolist() == [1, 2]
    assert found["c"].tensors["weight"].ravel().tolist() == [1.5, 1.5]
