"""Packed files to write, change and compare, for the tests of their readers."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from rbsf.engine.file import digest, read_packed, write_packed
from rbsf.engine.graph import PackedModel
from rbsf.engine.run import Engine

FUZZ = int(os.environ.get("RBSF_FUZZ", 300))  # files a test damages; `make sanitize` sets more


def write(path: Path, model: PackedModel) -> None:
    """Write `model` as a file."""
    write_packed(path, model)


def sign(path: Path, metadata: dict[str, str], tensors: dict[str, np.ndarray]) -> None:
    """Write a file whose checksum fits what it holds."""
    save_file(tensors, path, metadata | {"sha256": digest(metadata, tensors)})


def parts(path: Path) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """The metadata and the tensors of a file."""
    with safe_open(path, "numpy") as file:
        return file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


def layers_of(path: Path) -> list[dict[str, Any]]:
    return json.loads(parts(path)[0]["layers"])


def change_metadata(path: Path, **changes: str) -> None:
    """Put other texts into the metadata, with a checksum that fits."""
    metadata, tensors = parts(path)
    sign(path, metadata | changes, tensors)


def change_layer(path: Path, number: int, **changes: object) -> None:
    """Put other values into one layer, or node, with a checksum that fits."""
    layers = layers_of(path)
    layers[number].update(changes)
    change_metadata(path, layers=json.dumps(layers))


def change_attributes(path: Path, number: int, changes: dict[str, object]) -> None:
    """Put other attributes into one node, with a checksum that fits."""
    attributes = layers_of(path)[number]["attributes"]
    change_layer(path, number, attributes=attributes | changes)


def change_tensor(path: Path, name: str, array: np.ndarray | None) -> None:
    """Put another array in, or leave the tensor out, with a checksum that fits."""
    metadata, tensors = parts(path)
    tensors.pop(name, None)
    sign(path, metadata, tensors if array is None else tensors | {name: array})


def exchange_some(nodes: list[dict[str, Any]], values: list[Any], rng: np.random.Generator) -> None:
    """Exchange one or two fields or attributes of the nodes for random ones of `values`."""
    for _ in range(rng.integers(1, 3)):
        node = nodes[rng.integers(len(nodes))]
        attributes = node.get("attributes")
        inner = isinstance(attributes, dict) and attributes and rng.random() < 0.7
        part = attributes if inner else node
        part[str(rng.choice(sorted(part)))] = values[rng.integers(len(values))]


def is_refused(use: Callable[[], object]) -> bool:
    """Whether `use` raises a ValueError, whose message must be one line."""
    try:
        use()
    except ValueError as error:
        assert "\n" not in str(error)  # noqa: PT017 (it may not be raised)
        return True
    return False


def run_black_image(path: Path) -> None:
    engine = Engine(path)
    engine(np.zeros((1, *engine.model.input_shape), np.uint8))


def assert_refused(path: Path, message: str) -> None:
    """Reading the file fails with one line that names it and holds `message`."""
    with pytest.raises(ValueError, match=message) as caught:
        read_packed(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def assert_holds(path: Path, model: PackedModel) -> None:
    """The file is read as exactly this network."""
    read = read_packed(path)
    assert (read.model, read.task, read.info) == (model.model, model.task, model.info)
    assert (read.maps, read.path) == (model.maps, path)
    for node, other in zip(read.nodes, model.nodes, strict=True):
        assert (node.name, node.op, node.inputs) == (other.name, other.op, other.inputs)
        assert node.attributes == other.attributes
        assert node.tensors.keys() == other.tensors.keys()
        for key, array in node.tensors.items():
            np.testing.assert_array_equal(array, other.tensors[key], strict=True)
