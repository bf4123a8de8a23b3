"""Files of the format "rbsf-network-1", for classifiers, load and compute the same as before."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from packed_files import FUZZ, exchange_some, is_refused, run_black_image, sign

from rbsf.engine.cpu import available_isas
from rbsf.engine.file import packed_kind, read_packed
from rbsf.engine.run import Engine

WINDOW = {"kernel": 3, "stride": 1, "padding": 1, "groups": 1}
TERMS = {"bits": [0, 0, 0, 1, 1, 1], "kernels": [0, 1, 2, 0, 1, 2]}


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def network(mapped: bool = True) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """A binary convolution of 3 channels to 7 in 6 terms, and a real convolution added to it."""
    rng = np.random.default_rng(1)
    entries = [
        ("image", "input", [], {"height": 6, "width": 5, "channels": 3}),
        ("scaled", "affine", ["image"], {}),
        ("binary", "conv_bits", ["scaled"], WINDOW | TERMS),
        ("real", "conv", ["scaled"], WINDOW | {"kernel": 1, "padding": 0}),
        ("sum", "add", ["binary", "real"], {}),
    ]
    weight_bits = rng.integers(0, 2, (3, 7, 27), np.uint8)
    tensors = {
        "scaled.scale": np.full(3, 1 / 64, np.float32),
        "scaled.bias": np.full(3, -2, np.float32),
        "binary.threshold": normal(2, 3),
        "binary.flip": np.uint8([[0, 1, 0], [1, 1, 0]]),
        "binary.weight": np.packbits(weight_bits, axis=-1, bitorder="little"),
        "binary.scale": normal(6, 7, seed=2),
        "binary.bias": normal(7, seed=3),
        "real.weight": normal(7, 1, 1, 3, seed=4),
        "real.bias": normal(7, seed=5),
    }
    if mapped:
        tensors |= {"binary.map_scale": normal(3, seed=6), "binary.map_bias": normal(3, seed=7)}
    keys = ("name", "op", "inputs", "attributes")
    return [dict(zip(keys, entry, strict=True)) for entry in entries], tensors


def write(path: Path, entries: list[Any], tensors: dict[str, np.ndarray]) -> Path:
    texts = {"layers": json.dumps(entries), "info": '{"a": 1}'}
    sign(path, {"format": "rbsf-network-1", "model": "old", **texts}, tensors)
    return path


def by_the_formula(t: dict[str, np.ndarray], images: np.ndarray) -> np.ndarray:
    """sum_t(scale_t * s_t) [* K] + bias, as the format's description had it.

    It is computed in float64, position after position.
    """
    x = images / 64.0 - 2
    bits = [
        np.where((x >= threshold) ^ (flip > 0), 1, -1)
        for threshold, flip in zip(t["binary.threshold"], t["binary.flip"], strict=True)
    ]
    kernels = np.unpackbits(t["binary.weight"], axis=-1, count=27, bitorder="little")
    signs = kernels.reshape(3, 7, 3, 3, 3) * 2.0 - 1
    padded = [np.pad(b, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-1) for b in bits]
    terms = list(zip(t["binary.scale"], TERMS["bits"], TERMS["kernels"], strict=True))
    out = np.zeros((*x.shape[:3], 7))
    for y, column in np.ndindex(*x.shape[1:3]):
        for scale, base, kernel in terms:
            window = padded[base][:, y : y + 3, column : column + 3]
            out[:, y, column] += scale * np.einsum("nijc,oijc->no", window, signs[kernel])
    if "binary.map_scale" in t:
        mean = np.abs(x * t["binary.map_scale"] + t["binary.map_bias"]).mean(-1)
        around = np.pad(mean, ((0, 0), (1, 1), (1, 1)))
        for y, column in np.ndindex(*x.shape[1:3]):
            out[:, y, column] *= around[:, y : y + 3, column : column + 3].mean((1, 2))[:, None]
    return out + t["binary.bias"] + x @ t["real.weight"][:, 0, 0].T + t["real.bias"]


@pytest.mark.parametrize("mapped", [True, False])
def test_they_compute_what_they_did(tmp_path: Path, mapped: bool) -> None:
    entries, tensors = network(mapped)
    path = write(tmp_path / "old.safetensors", entries, tensors)
    images = np.random.default_rng(0).integers(0, 256, (3, 6, 5, 3), np.uint8)
    expected = by_the_formula(tensors, images)
    for isa in available_isas():
        np.testing.assert_allclose(Engine(path, isa=isa)(images), expected, rtol=1e-4, atol=1e-4)


def test_they_hold_one_node_for_each_term(tmp_path: Path) -> None:
    path = write(tmp_path / "old.safetensors", *network())
    assert packed_kind(path) == "classifier"
    model = read_packed(path)
    assert (model.model, model.task) == ("old", "classifier")
    assert (model.info, model.input_shape) == ({"a": 1}, (6, 5, 3))
    convs = [node for node in model.nodes if node.op == "conv_bits"]
    assert [node.attributes["border"] for node in convs] == [-1] * 6
    assert len({id(node.tensors["weight"]) for node in convs}) == 3, "terms share their kernels"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"bits": [0] * 6},
            r"node 'binary' \(conv_bits\): bits=\[0, 0, 0, 0, 0, 0\], expected numbers below 2",
        ),
        ({"bits": []}, "expected numbers below 2"),
        ({"bits": [0, 1] * 33}, "expected numbers below 2"),
        ({"bits": [0, 1]}, "are of different numbers"),
        ({"kernels": [-1]}, "expected numbers below 3"),
        ({"kernels": [1 << 60]}, "expected numbers below 3"),
        ({"kernels": "0"}, "expected numbers below 3"),
        ({"kernel": 5}, "weight is uint8"),
        ({"stride": 0}, "stride=0"),
        ({"padding": None}, "padding=None"),
        ({"groups": 2}, "do not split into 2 groups"),
        ({"more": 1}, "has attributes"),
    ],
)
def test_a_changed_attribute_is_refused(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    entries, tensors = network(mapped=False)
    entries[2]["attributes"] = entries[2]["attributes"] | changes
    with pytest.raises(ValueError, match=message):
        Engine(write(tmp_path / "old.safetensors", entries, tensors))


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("binary.threshold", np.full((2, 3), np.nan, np.float32), "not finite"),
        ("binary.threshold", np.zeros(3, np.float32), "its tensors are"),
        ("binary.flip", np.zeros((1, 3), np.uint8), "of different numbers"),
        ("binary.scale", np.ones((2, 7), np.float32), "of different numbers"),
        ("binary.weight", np.zeros((3, 0, 4), np.uint8), "1 to 16384 filters"),
        ("binary.weight", np.zeros((), np.uint8), "its tensors are"),
        ("binary.map_scale", np.ones(3, np.float32), "its tensors are"),
        ("binary.more", np.ones(3, np.float32), "its tensors are"),
        ("conv.99.weight", np.zeros(3, np.int8), "tensors of no node: conv.99"),
    ],
)
def test_a_changed_tensor_is_refused(
    tmp_path: Path, name: str, array: np.ndarray, message: str
) -> None:
    entries, tensors = network(mapped=False)
    with pytest.raises(ValueError, match=message):
        Engine(write(tmp_path / "old.safetensors", entries, tensors | {name: array}))


def test_signed_nonsense_gives_value_errors_alone(tmp_path: Path) -> None:
    """Files with a good checksum and random values and tensors exchanged are refused or run."""
    path = tmp_path / "old.safetensors"
    whole, tensors = network()
    rng, refused = np.random.default_rng(5), 0
    values = [0, 1, 2, 3, 7, -1, 1 << 31, 1 << 63, 0.5]
    values += ["", "scaled", "image", None, True, [], [0], [1, 0], {}]
    arrays = [
        np.zeros(shape, kind)
        for shape in ((), (3,), (2, 3), (7, 3), (0, 3))
        for kind in (np.uint8, np.float32)
    ]
    for _ in range(FUZZ):
        entries, changed = json.loads(json.dumps(whole)), dict(tensors)
        exchange_some(entries, values, rng)
        if rng.random() < 0.3:
            array = arrays[rng.integers(len(arrays))]
            changed[str(rng.choice(sorted(changed)))] = array
        write(path, entries, changed)
        refused += is_refused(lambda: run_black_image(path))
    assert refused > 0
