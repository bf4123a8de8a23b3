"""What a refused export says, and that it says so before a training."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rbsf.conversion import binarize
from rbsf.export import modules
from rbsf.export.check import check_exportable, check_packable
from rbsf.export.instead import INSTEAD
from rbsf.models import build

SHAPE = (16, 16, 3)
HERE = Path(__file__).name


def line_of(function: object, text: str) -> int:
    lines, first = inspect.getsourcelines(function)  # type: ignore[arg-type]
    return first + next(i for i, line in enumerate(lines) if text in line)


class Mine(nn.Module):
    def __init__(self, act: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), act, nn.Conv2d(8, 8, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        return F.adaptive_avg_pool2d(x, 1).flatten(1)


class Calls(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(self.conv(x), 0.1)


class Branches(Calls):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            x = -x
        return self.conv(x)


class Row(nn.Sequential):
    pass


@pytest.mark.parametrize(
    ("net", "said", "where"),
    [
        (
            Mine(nn.GELU()),
            "body.2 is a GELU, which has none: use nn.ReLU or nn.PReLU; called at",
            line_of(Mine.forward, "self.body(x)"),
        ),
        (
            Calls(),
            "use nn.PReLU, whose slope `init` can be the same; called at",
            line_of(Calls.forward, "leaky_relu"),
        ),
        (Branches(), "cannot be traced by torch.fx", line_of(Branches.forward, "x.sum()")),
        (Row(nn.Conv2d(3, 8, 3), nn.Tanh()), "it is in a Row, defined at", line_of(Row, "class")),
    ],
)
def test_a_layer_is_named_with_its_line_and_what_to_use(
    net: nn.Module, said: str, where: int
) -> None:
    with pytest.raises(ValueError, match=r"^no packed form: ") as caught:
        check_exportable(net, SHAPE)
    text = str(caught.value)
    assert said in text
    assert text.endswith(f"{HERE}:{where}")
    assert "\n" not in text


def test_what_can_be_exported_stays_as_it_is() -> None:
    net = Mine(nn.ReLU())
    binarize(net, "xnor")
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    check_exportable(net.train(), SHAPE)
    assert net.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_binarize_takes_what_cannot_be_exported() -> None:
    assert [change.kept for change in binarize(Mine(nn.GELU()))] == ["first convolution", ""]


def test_the_table_advises_layers_that_can_be_exported() -> None:
    known = {kind.__name__ for kind in (*modules.FORMS, *modules.SAME)}
    for name, advice in INSTEAD.items():
        assert set(re.findall(r"nn\.([A-Z]\w+)", advice)) <= known, name
        assert name not in known


@pytest.mark.parametrize("model", ["rbsf", "xnor", "rbsf2"])
def test_our_trackers_can_be_packed_untrained(model: str) -> None:
    options = {"width": 0.25} if model != "rbsf2" else {"channels": [32, 32, 32]}
    check_packable(build(model, **options), model, {})


def test_a_training_refuses_before_its_teacher(
    tmp_path: Path, image_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rbsf.tools import train_classifier

    monkeypatch.delitem(modules.FORMS, nn.MaxPool2d)
    flags = ["--dataset", "folder", "--root", str(image_root), "--model", "resnet18"]
    flags += ["--stages", "8-8-8-8", "--size", "32", "--epochs", "1", "--workers", "0"]
    with pytest.raises(ValueError, match=r"is a MaxPool2d; expected one of .* at \S+\.py:\d+$"):
        train_classifier.main([*flags, "--out", str(tmp_path / "out")])
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["config.yaml", "out"]
