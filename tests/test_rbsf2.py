"""RB-SF 2: maps are whole numbers of steps, equal in float32 and float64; its losses."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rbsf.layers import binary_layers
from rbsf.methods import METHODS
from rbsf.models import build
from rbsf.models.rbsf2 import RBSF2, Block
from rbsf.models.whole import LIMIT, STEP, Round, Slope, Stem, WholeNorm, _Moments, norm_of_stem
from rbsf.tools.recipes.rbsf2 import DistillConfig
from rbsf.tracker.distill import (
    DistillTask,
    balanced_weights,
    cells_near,
    middle_of,
    sides_loss,
    target_loss,
)
from rbsf.tracker.teachers.pair import Lesson
from rbsf.weights import load_weights, save_weights

SMALL = {"channels": [16, 32, 64], "depths": [1, 1, 1], "features": 16, "head_depth": 1}


def crops(count: int = 2) -> tuple[Tensor, Tensor]:
    """Soft random images, uint8 `[N, 3, H, W]`, of 127 and of 255 pixels."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, 17, 17, generator=generator) * 255
    return tuple(
        torch.nn.functional.interpolate(coarse, size, mode="bilinear").byte() for size in (127, 255)
    )  # type: ignore[return-value]


def trained(net: RBSF2) -> RBSF2:
    """A network whose statistics and parameters differ from channel to channel."""
    torch.manual_seed(3)
    for parameter in net.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.3 * torch.randn_like(parameter)
    with torch.no_grad():
        for _ in range(30):
            net.train()(*(x.float() for x in crops(4)))
    return net.eval()


@pytest.mark.parametrize(
    ("method", "seed"), [("bireal", 0), ("bireal", 5), ("rbcn", 0), ("xnor", 0)]
)
def test_float32_is_float64_to_the_bit(method: str, seed: int) -> None:
    torch.manual_seed(seed)
    net = trained(build("rbsf2", method=method, **SMALL))  # type: ignore[arg-type]
    pixels = [x.float() for x in crops()]
    with torch.inference_mode():
        single, double = net(*pixels), net.double()(*(x.double() for x in pixels))
    for one, other in zip(single, double, strict=True):
        assert torch.equal(one.double(), other)
        assert one.std() > 0.05


def test_maps_are_whole_numbers_of_steps() -> None:
    net = trained(build("rbsf2", **SMALL))  # type: ignore[arg-type]
    seen: list[Tensor] = []
    for block in net.backbone.blocks:
        block.register_forward_hook(lambda _, args, out: seen.append(out))
    with torch.inference_mode():
        features = net.backbone(crops()[1].float())
    assert features.shape == (2, 16, 16, 16)
    assert len(seen) == 3
    for x in (*seen, features):
        assert torch.equal(x / STEP, torch.round(x / STEP))
        assert x.abs().max() > STEP
    assert features.abs().max() <= 127 * STEP


def test_a_round_of_a_round_changes_nothing() -> None:
    x = torch.tensor([0.4, 0.5, 1.5, -0.6, 1e9, -1e9]) * STEP
    assert (Round()(x) / STEP).tolist() == [0, 0, 2, -1, LIMIT, -LIMIT]
    assert torch.equal(Round()(Round()(x)), Round()(x))


def test_scales_have_seven_bits() -> None:
    norm = WholeNorm(4)
    norm.weight.data = torch.tensor([1.0, -0.3, 1e-3, 77.7])
    norm.bias.data = torch.tensor([0.1, 5.0, -3.0, 0.0])
    scale, bias = norm.scale_and_bias(
        torch.tensor([3.0, -2.0, 1.0, 100.0]), torch.tensor([900.0, 10.0, 4.0, 2.0])
    )
    mantissa, _ = torch.frexp(scale)
    assert torch.equal(mantissa * 128, torch.round(mantissa * 128))
    gain = (norm.weight / torch.sqrt(torch.tensor([900.0, 10.0, 4.0, 2.0]))).double()
    assert torch.allclose(scale, gain, rtol=1 / 127, atol=2.0**-14)
    assert torch.equal(bias * 2**13, torch.round(bias * 2**13))
    assert bias[3] == -32, "no bias is larger"


def test_a_norm_is_nearly_a_batch_norm() -> None:
    torch.manual_seed(0)
    ours, theirs = WholeNorm(8), torch.nn.BatchNorm2d(8)
    x = torch.randint(-50, 50, (4, 8, 6, 6)).float()
    for _ in range(3):
        assert torch.allclose(ours(x), theirs(x), atol=0.05)
    assert torch.allclose(ours.running_mean, theirs.running_mean)
    assert torch.allclose(ours.running_var, theirs.running_var)
    assert torch.allclose(ours.eval()(x), theirs.eval()(x), atol=0.05)


def test_moments_and_their_gradients_are_exact() -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 2, 4, 5, dtype=torch.float64) * 3 + 7
    theirs = torch.var_mean(x, (0, 2, 3), correction=0)
    for ours, other in zip(_Moments.apply(x), theirs, strict=True):
        assert torch.allclose(ours, other)
    assert torch.autograd.gradcheck(_Moments.apply, (x.requires_grad_(),))


def test_rounding_passes_gradients_within_its_limits() -> None:
    x = torch.tensor([0.3, -0.49, 50.0, -50.0], requires_grad=True)
    Round()(x).backward(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert x.grad is not None
    assert x.grad.tolist() == [1, 2, 0, 0]


def test_a_stem_has_whole_weights_of_any_unit() -> None:
    stem = Stem(8, 4, 4)
    weight, bias = stem.rounded()
    assert torch.equal(weight, torch.round(weight))
    assert weight.abs().amax((1, 2, 3)).tolist() == [63] * 8
    assert not bias.any()
    with torch.no_grad():
        stem.weight *= 0.37
    assert torch.equal(stem.rounded()[0], weight)


def test_larger_stems_leave_fewer_bits_for_scales() -> None:
    assert [norm_of_stem(Stem(8, size, 4)).bits for size in (4, 7, 9)] == [3, 1, 1]
    with pytest.raises(ValueError, match="stem is 10; give 9 or less, whose sums are exact"):
        build("rbsf2", stem=10)


def test_signs_of_a_new_network_vary_in_every_channel() -> None:
    net = build("rbsf2").train()
    seen: list[Tensor] = []
    for layer in binary_layers(net.backbone).values():
        layer.norm.register_forward_hook(lambda _, args, out: seen.append(out))  # type: ignore[union-attr]
    net.backbone(crops(4)[1].float())
    assert len(seen) == 6
    for x in seen:
        assert torch.sign(x).mean((0, 2, 3)).abs().max() < 0.98
        assert (x.abs() < 1).float().mean() > 0.3, "gradients pass where |x| < 1"


def test_shortcuts_mix_channels_where_their_number_changes() -> None:
    block = Block(8, 24, 2, "bireal").eval()
    assert block.mix is not None
    x = torch.randint(-40, 40, (2, 8, 6, 6)) * STEP
    mixed = block.mix(x)
    assert mixed.shape == (2, 24, 6, 6)
    assert torch.equal(mixed[:, :8], mixed[:, 8:16])
    assert torch.allclose(mixed[:, :8], x, atol=STEP)
    assert block(x).shape == (2, 24, 3, 3)
    assert Block(8, 8, 2, "bireal").mix is None


def test_everything_learns() -> None:
    net = build("rbsf2", **SMALL).train()  # type: ignore[arg-type]
    logits, sides = net(*(x.float() for x in crops(4)))
    features = net.adapter(net.backbone(crops(4)[1].float()))
    (logits.square().mean() + sides.square().mean() + features.square().mean()).backward()
    assert not [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]


def test_slopes_are_sixteenths() -> None:
    slope = Slope(3)
    slope.weight.data = torch.tensor([0.26, -3.0, 0.99])
    assert slope.slopes().tolist() == [0.25, -1.0, 1.0]


def test_borders_are_plus_one() -> None:
    assert {layer.border for layer in binary_layers(build("rbsf2")).values()} == {1.0}


# ---- what it learns


def lesson(target: Tensor) -> Lesson:
    return Lesson(
        torch.zeros(1, 2, 8, 8), torch.zeros(1, 2, 16, 16), target, torch.zeros(1, 4, 2, 2)
    )


def test_a_map_like_the_teachers_costs_nothing() -> None:
    target = torch.tensor([[[0.9, 0.1], [0.5, 0.01]]])
    assert target_loss(torch.logit(target), target).abs() < 1e-6
    assert target_loss(torch.logit(target) + 1, target) > 0.05


def test_on_and_off_the_target_weigh_alike() -> None:
    """One position of four is on the target.

    An error there counts as much as an error at all the others.
    """
    target = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])
    on = target_loss(torch.tensor([[[-9.0, -9.0], [-9.0, -9.0]]]), target)
    off = target_loss(torch.tensor([[[9.0, 9.0], [9.0, 9.0]]]), target)
    assert on == pytest.approx(4.5, abs=0.01)
    assert off == pytest.approx(4.5, abs=0.01)


def test_boxes_count_where_the_target_is() -> None:
    sides = torch.zeros(1, 4, 2, 2)
    sides[:, :, 0, 0] = 3
    assert sides_loss(sides, lesson(torch.tensor([[[0.0, 1.0], [1.0, 0.0]]]))) == 0
    assert sides_loss(sides, lesson(torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]))) == pytest.approx(1.5)
    assert sides_loss(sides, lesson(torch.full((1, 2, 2), 1e-6))) < 1e-4, "no target, no box"


def test_it_learns_from_a_teacher() -> None:
    def source(exemplar: Tensor, search: Tensor) -> Lesson:
        n = len(exemplar)
        target = torch.zeros(n, 15, 15)
        target[:, 7, 7] = 1
        return Lesson(
            torch.ones(n, 96, 8, 8),
            torch.ones(n, 96, 16, 16),
            target,
            torch.full((n, 4, 15, 15), 3.0),
        )

    task = DistillTask(source)  # type: ignore[arg-type]
    batch = dict(zip(("exemplar", "search"), crops(2), strict=True))
    task.measure([batch])
    torch.manual_seed(0)
    net = build("rbsf2", **SMALL)
    optimizer = torch.optim.Adam(net.parameters(), 0.002)
    losses = []
    for _ in range(40):
        loss, parts = task(net, None, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert set(parts) == {"features", "target", "sides"}
    assert sum(losses[-10:]) / 10 < losses[0] / 2


def test_gradients_in_bfloat16_are_near_those_in_float32() -> None:
    torch.manual_seed(0)
    block = Block(64, 64, 1, "bireal")
    x = torch.randn(2, 64, 16, 16)
    outputs, gradients = [], []
    for dtype in (None, torch.bfloat16):
        block.sums.gradients = dtype
        block.zero_grad()
        out = block(x)
        out.square().sum().backward()
        outputs.append(out)
        gradients.append(block.sums.conv.weight.grad.clone())
    assert torch.equal(*outputs)
    near = torch.nn.functional.cosine_similarity(*(g.flatten() for g in gradients), dim=0)
    assert near > 0.9999
    assert not torch.equal(*gradients)


def test_cells_on_the_target_weigh_as_much_as_the_others() -> None:
    target = torch.zeros(1, 3, 3)
    target[0, 1, 1] = 1
    cells = cells_near(target)
    assert cells[0].tolist() == [[0, 0, 0, 0], [0, 0.25, 0.25, 0], [0, 0.25, 0.25, 0], [0, 0, 0, 0]]
    weights = balanced_weights(middle_of(torch.zeros(2, 5, 8, 8)))
    assert weights.sum((1, 2)).tolist() == [1, 1]
    assert weights[0, 2:6, 2:6].sum() == weights[0].sum() / 2
    assert balanced_weights(torch.zeros(1, 2, 2)).tolist() == [[[0.125] * 2] * 2]


UNFIT = ("xnor_k", "abcnet")  # methods that have more than one scale a filter


@pytest.mark.parametrize("method", [name for name in METHODS if name not in UNFIT])
def test_saved_weights_of_every_method_give_the_same_maps(method: str, tmp_path) -> None:
    torch.manual_seed(0)
    net = trained(build("rbsf2", method=method, **SMALL))  # type: ignore[arg-type]
    save_weights(net, "rbsf2", tmp_path / "net.safetensors")
    loaded = load_weights(tmp_path / "net.safetensors")[0]
    pixels = [x.float() for x in crops()]
    with torch.inference_mode():
        for found, expected in zip(loaded(*pixels), net(*pixels), strict=True):
            assert torch.equal(found, expected)


@pytest.mark.parametrize("method", UNFIT)
def test_a_method_with_more_than_one_scale_a_filter_is_refused(method: str) -> None:
    with pytest.raises(ValueError, match=f"method '{method}' has more than one scale a filter"):
        build("rbsf2", method=method)
    with pytest.raises(ValueError, match=f"method '{method}' has more than one scale a filter"):
        DistillConfig(teacher="b.onnx,h.onnx", method=method)


def test_options_of_a_method_are_refused() -> None:
    with pytest.raises(ValueError, match="model 'rbsf2' takes no method options"):
        build("rbsf2", method="pcnn", method_options={"projections": 2})
