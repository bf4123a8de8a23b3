"""Published trackers as PyTorch modules equal ONNX Runtime; files of other forms are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from requirements import needs, peers

from rbsf.tracker.onnx_pair import open_pair
from rbsf.tracker.teachers.graph import OnnxGraph, Operation, read_graph, read_onnx, write_graph
from rbsf.tracker.teachers.pair import TeacherPair, read_pair

onnx = pytest.importorskip("onnx", reason=needs("onnxruntime", "it is not installed"))
onnxruntime = pytest.importorskip("onnxruntime", reason=needs("onnxruntime", "it is not installed"))


@pytest.fixture(scope="module")
def files(real_data: Path) -> tuple[Path, Path]:
    backbone, head = peers(real_data, "nano3_backbone.onnx", "nano3_head.onnx")
    return backbone, head


def crops(size: int, count: int = 3) -> np.ndarray:
    return (
        np.random.default_rng(size)
        .integers(0, 256, (count, 3, size, size), np.uint8)
        .astype(np.float32)
    )


def in_onnx_runtime(path: Path, **inputs: np.ndarray) -> list[np.ndarray]:
    """What the graph gives for one image after another, with its sizes left open."""
    model = onnx.load(path)
    for value in (*model.graph.input, *model.graph.output):
        for number, dim in enumerate(value.type.tensor_type.shape.dim):
            dim.dim_param = f"{value.name}{number}"
    session = onnxruntime.InferenceSession(model.SerializeToString())
    count = len(next(iter(inputs.values())))
    found = [session.run(None, {k: v[i : i + 1] for k, v in inputs.items()}) for i in range(count)]
    return [np.concatenate(part) for part in zip(*found, strict=True)]


@pytest.mark.parametrize("size", [127, 255])
def test_a_backbone_is_as_in_onnx_runtime(files: tuple[Path, Path], size: int) -> None:
    (expected,) = in_onnx_runtime(files[0], input=crops(size))
    (found,) = read_onnx(files[0])(torch.from_numpy(crops(size)))
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-4)


def test_a_head_is_as_in_onnx_runtime(files: tuple[Path, Path]) -> None:
    rng = np.random.default_rng(1)
    template, search = (rng.normal(size=(3, 96, n, n)).astype(np.float32) for n in (8, 16))
    expected = in_onnx_runtime(files[1], input1=template, input2=search)
    found = read_onnx(files[1])(torch.from_numpy(template), torch.from_numpy(search))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one.numpy(), other, atol=1e-4, rtol=1e-4)


def test_a_graph_is_kept_without_onnx(files: tuple[Path, Path], tmp_path: Path) -> None:
    graph = read_onnx(files[0])
    write_graph(graph, tmp_path / "backbone.safetensors")
    pixels = torch.from_numpy(crops(127))
    assert torch.equal(read_graph(tmp_path / "backbone.safetensors")(pixels)[0], graph(pixels)[0])


def test_a_lesson_has_the_promised_shapes(files: tuple[Path, Path]) -> None:
    lesson = read_pair(*files)(*(torch.from_numpy(crops(size)).byte() for size in (127, 255)))
    expected = [(3, 96, 8, 8), (3, 96, 16, 16), (3, 15, 15), (3, 4, 15, 15)]
    assert [tuple(part.shape) for part in lesson] == expected
    assert not any(part.requires_grad for part in lesson)
    assert 0 <= lesson.target.min() <= lesson.target.max() <= 1


def test_files_that_are_no_graphs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no ONNX file"):
        read_graph(tmp_path / "none.onnx")
    with pytest.raises(FileNotFoundError, match="no file"):
        read_graph(tmp_path / "none.safetensors")
    for name, message in (("a.onnx", "no ONNX file"), ("a.safetensors", "no graph of a teacher")):
        (tmp_path / name).write_bytes(b"nothing of the kind")
        with pytest.raises(ValueError, match=message) as error:
            read_graph(tmp_path / name)
        assert "\n" not in str(error.value)


def test_unknown_operations_are_named() -> None:
    message = "operations Erf, LayerNormalization are not known; there are Add, "
    with pytest.raises(ValueError, match=message):
        OnnxGraph(
            ["x"],
            ["y"],
            [Operation(t, ("x",), "y", {}) for t in ("LayerNormalization", "Erf", "Relu")],
            {},
        )


def graph_of(
    *operations: Operation, inputs: tuple[str, ...] = ("x",), **values: torch.Tensor
) -> OnnxGraph:
    return OnnxGraph(inputs, [operations[-1].output], operations, values)


def test_graphs_that_do_not_go_together_are_refused(files: tuple[Path, Path]) -> None:
    backbone, head = (read_onnx(path) for path in files)
    with pytest.raises(ValueError, match="crops of 127 and 255 pixels do not suit it"):
        TeacherPair(graph_of(Operation("Relu", ("x",), "y", {})), head)
    with pytest.raises(ValueError, match="crops of 127 and 255 pixels do not suit it"):
        TeacherPair(backbone, backbone)
    nan = graph_of(Operation("Mul", ("x", "nan"), "y", {}), nan=torch.tensor(float("nan")))
    spoiled = OnnxGraph(backbone.inputs, ["spoiled"], backbone.operations, dict(_values(backbone)))
    spoiled.operations += (Operation("Mul", (backbone.outputs[0], "nan"), "spoiled", {}),)
    spoiled.names["nan"] = "nan"
    spoiled.register_buffer("nan", torch.tensor(float("nan")))
    with pytest.raises(ValueError, match="numbers that are not finite"):
        TeacherPair(spoiled, head)
    assert torch.isnan(nan(torch.zeros(1, 1))[0]).all()


@pytest.mark.parametrize("read", [read_pair, open_pair])
@pytest.mark.parametrize(("inputs", "found"), [((2, 1), "2 and 1"), ((1, 1), "1 and 1")])
def test_two_graphs_in_the_wrong_order_are_told(
    tmp_path: Path, read: Callable[[Path, Path], object], inputs: tuple[int, int], found: str
) -> None:
    paths = tmp_path / "a.onnx", tmp_path / "b.onnx"
    for path, count in zip(paths, inputs, strict=True):
        onnx.save(sum_of(count), path)
    message = rf"a\.onnx,.*b\.onnx: the order is BACKBONE,HEAD, .*; these take {found}"
    with pytest.raises(ValueError, match=message):
        read(*paths)


def sum_of(count: int) -> Any:
    """An ONNX model that adds the first and the last of its inputs, each `[1, 3, 4, 4]`."""
    helper = onnx.helper
    names = [f"x{number}" for number in range(count)]
    values = [helper.make_tensor_value_info(name, 1, [1, 3, 4, 4]) for name in (*names, "y")]
    node = helper.make_node("Add", [names[0], names[-1]], ["y"])
    graph = helper.make_graph([node], "sum", values[:-1], values[-1:])
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 13)])


def _values(graph: OnnxGraph) -> list[tuple[str, torch.Tensor]]:
    return [(name, getattr(graph, buffer)) for name, buffer in graph.names.items()]
