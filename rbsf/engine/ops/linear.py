"""linear: a vector times a matrix, summed as in conv; weight float32 `[O, I]`, bias `[O]`."""

from rbsf.engine.node import Forms, Map, Node
from rbsf.engine.op import NUMBERS, Op, Step, step
from rbsf.engine.ops._windows import filters
from rbsf.engine.ops.conv import kernel


def _result(node: Node, x: Map) -> Map:
    if len(x.shape) != 1:
        raise ValueError(f"expected a vector, got {x.shape}; flatten the map first")
    return Map((filters(node),), "real")


def _tensors(node: Node, x: Map) -> Forms:
    outputs = len(node.tensors["weight"])
    return {"weight": ("float32", (outputs, *x.shape)), "bias": ("float32", (outputs,))}


def _onnx(node: Node, x: Map) -> list[Step]:
    return [step("Gemm", "x0", node.tensors["weight"], node.tensors["bias"], transB=1)]


OP = Op(
    takes=(NUMBERS,),
    result=_result,
    tensors=_tensors,
    reference=lambda node, x: x @ node.tensors["weight"].T + node.tensors["bias"],
    kernel=kernel,
    onnx=_onnx,
)
