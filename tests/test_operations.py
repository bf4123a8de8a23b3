"""Every operation of the engine has all the parts that docs/operations.md names.

`make operation NAME=concat` runs these tests for one operation.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from engines import needs_kernels, pixels
from random_networks import EXAMPLES, with_operation
from requirements import needs, skip_without
from test_network import assert_as_the_oracle
from torch import Tensor, nn

from rbsf.engine.graph import PackedModel
from rbsf.engine.ops import OPS
from rbsf.engine.run import Engine
from rbsf.export.pack import (
    Exported,
    Images,
    export_classifier,
    export_float_tracker,
    export_tracker,
)
from rbsf.layers import BinaryConv2d
from rbsf.methods import get_method
from rbsf.models import build
from rbsf.models.whole import Round

ROOT = Path(__file__).parents[1]
SHAPE = (13, 11, 3)
SEEDS = 25


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every test runs for each operation, or for that of --operation."""
    asked = metafunc.config.getoption("--operation")
    if asked and asked not in OPS:
        raise pytest.UsageError(f"there is no rbsf/engine/ops/{asked}.py; see docs/operations.md")
    if "op" in metafunc.fixturenames:
        metafunc.parametrize("op", [asked] if asked else [*OPS])


class Net(nn.Module):
    """A convolution, then `middle`, which takes and gives maps of 8 channels, then a head."""

    def __init__(self, middle: Callable[[Tensor], Tensor], *parts: nn.Module) -> None:
        super().__init__()
        self.stem, self.middle, self.parts = nn.Conv2d(3, 8, 3), middle, nn.ModuleList(parts)

    def forward(self, x: Tensor) -> Tensor:
        return self.middle(self.stem(x)).flatten(1)


def binary(method: str = "rbcn") -> BinaryConv2d:
    torch.manual_seed(1)
    layer = get_method(method)(8, 8, 3, padding=1, input_norm=True)
    layer.norm.running_mean = torch.linspace(-0.3, 0.3, 8)
    return layer


def of(module: nn.Module) -> nn.Module:
    return Net(module, module)


# A PyTorch network in which the operation is found; some occur in trackers alone.
TORCH: dict[str, Callable[[], nn.Module]] = {
    "abs_mean": lambda: of(binary("xnor_k")),
    "add": lambda: Net(lambda x: x + x.relu()),
    "affine": lambda: nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3)),
    "avg_pool": lambda: of(nn.AvgPool2d(3, 2, 1)),
    "channels_first": lambda: build("rbsf", width=0.2),
    "concat": lambda: Net(lambda x: torch.cat([x, x.relu(), x], 1)),
    "conv": lambda: of(nn.Identity()),
    "conv_bits": lambda: of(binary()),
    "conv_u8": lambda: build("rbsf", width=0.2),
    "flatten": lambda: of(nn.Flatten()),
    "global_pool": lambda: of(nn.AdaptiveAvgPool2d(1)),
    "hardtanh": lambda: of(nn.Hardtanh()),
    "input": lambda: of(nn.ReLU()),
    "linear": lambda: nn.Sequential(nn.Flatten(), nn.Linear(429, 4)),
    "max_pool": lambda: of(nn.MaxPool2d(3, 2, 1)),
    "mul": lambda: Net(lambda x: x * x.mean((2, 3), keepdim=True)),
    "prelu": lambda: of(nn.Sequential(nn.PReLU(8), nn.PReLU())),
    "relu": lambda: of(nn.ReLU()),
    "round": lambda: of(nn.Sequential(Round(), Round(127))),
    "sigmoid": lambda: Net(lambda x: x.sigmoid()),
    "sign": lambda: of(binary()),
    "upsample": lambda: of(nn.Upsample(scale_factor=2)),
}


def exported(op: str) -> Exported:
    assert op in TORCH, f"give TORCH of tests/test_operations.py a network that has a {op}"
    net = unsettled(TORCH[op]()).eval()
    if op in ("conv_u8", "channels_first"):
        return export_tracker(net, "rbsf")
    return export_classifier(net, "net", Images(SHAPE, (120,), (60,)))


def unsettled(net: nn.Module) -> nn.Module:
    """The network with other numbers for each channel.

    In a new network a wrong order of channels would not show.
    """
    torch.manual_seed(2)
    for parameter in net.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.2 * torch.rand_like(parameter)
    return net


def example(op: str, seed: int) -> PackedModel:
    assert op in EXAMPLES, f"give EXAMPLES of tests/random_networks.py a function that adds a {op}"
    return with_operation(op, seed)


def test_the_example_has_it_on_maps_of_every_kind(op: str) -> None:
    models = [example(op, seed) for seed in range(SEEDS)]
    found = [(model, node) for model in models for node in model.nodes if node.op == op]
    for place, kinds in enumerate(OPS[op].takes):
        assert {model.maps[node.inputs[place]].kind for model, node in found} == set(kinds)


def test_real_results_are_float32(op: str) -> None:
    model = example(op, 0)
    node = next(node for node in model.nodes if node.op == op)
    if model.maps[node.name].kind in ("real", "planes"):
        inputs = [np.ones((1, *model.maps[name].shape), np.float32) for name in node.inputs]
        assert OPS[op].reference(node, *inputs).dtype == np.float32


@needs_kernels
def test_the_kernel_is_as_the_reference(op: str) -> None:
    for seed in range(SEEDS):
        model = example(op, seed)
        assert_as_the_oracle(model, pixels(2, *model.input_shape, seed=seed), 1)


def test_it_is_found_in_pytorch(op: str) -> None:
    """The packed network computes what PyTorch does in float64."""
    made = exported(op)
    assert op in [node.op for node in made.packed.nodes]
    made.compare().check()


def test_onnx_runtime_computes_the_same(op: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason=needs("onnxruntime", "it is not installed"))
    from rbsf.export.onnx import network_graph, run_graph

    if op == "channels_first":
        model = export_float_tracker(TORCH[op]().eval(), "t").packed
    else:
        model = exported(op).packed
    batch = pixels(2, *model.input_shape)
    (tmp_path / "net.onnx").write_bytes(network_graph(model).SerializeToString())
    found, expected = run_graph(tmp_path / "net.onnx", batch), Engine(model, isa="numpy")(batch)
    if expected.ndim != 2 and model.task != "tracker":
        expected = expected.transpose(0, 3, 1, 2)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_it_is_documented(op: str) -> None:
    assert f"| `{op}` |" in (ROOT / "docs/operations.md").read_text(), (
        f"give the table of docs/operations.md a row for {op}"
    )


def test_an_operation_that_is_gone_is_named_nowhere() -> None:
    assert not (set(EXAMPLES) | set(TORCH)) - set(OPS)


def test_the_worked_example_is_the_operation_itself() -> None:
    page = (ROOT / "docs/operations.md").read_text()
    assert (ROOT / "rbsf/engine/ops/prelu.py").read_text() in page
    line = page.partition("A module gets a line in `FORMS`:\n\n```python\n")[2].partition("\n")[0]
    assert line in (ROOT / "rbsf/export/modules.py").read_text()


def test_the_command_of_the_page_works() -> None:
    """`make operation` runs the tests of one operation, or says that there is none of the name."""
    if not shutil.which("make"):
        skip_without("make", "it is not installed")
    made = subprocess.run(
        ["make", "-n", "-o", ".venv/.ready", "operation", "NAME=prelu"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "-m pytest tests/test_operations.py tests/test_readme.py" in made.stdout
    assert "--operation prelu" in made.stdout
    command = [sys.executable, "-m", "pytest", "-n0", "-p", "no:cacheprovider"]
    command += ["tests/test_operations.py", "-k", "documented", "--operation"]
    subprocess.run([*command, "prelu"], cwd=ROOT, capture_output=True, text=True, check=True)
    found = subprocess.run(
        [*command, "swish"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert found.returncode
    line = "there is no rbsf/engine/ops/swish.py; see docs/operations.md"
    assert line in found.stdout + found.stderr
