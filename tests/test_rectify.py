"""Algorithm 1 on a toy task: losses in closed form, what a step updates, schedule, resume."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from rbsf.conversion import binarize
from rbsf.maps import MapNorm, MapRecorder, measure_maps, start_again, start_from_teacher
from rbsf.tools.step_trial import Trial, trial_config
from rbsf.train.adversarial import (
    GRID,
    SLOPE,
    Discriminators,
    DiscriminatorStack,
    adversarial_loss,
    discriminator_loss,
    pool,
    spread,
)
from rbsf.train.rectify import Rectifier, RectifyConfig, parameter_groups


def float_net():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, bias=False), nn.BatchNorm2d(6)
    )


def toy_task(student, teacher, batch):
    """Regress the mean of each map, and run the teacher on the same input."""
    out = student(batch)
    if teacher is not None:
        teacher(batch)
    return (out.mean((2, 3)) - 1).square().mean(), {}


def make_rectifier(**settings):
    torch.manual_seed(0)
    student, teacher = float_net(), float_net()
    binarize(student, "rbcn")
    stats = measure_maps(student, teacher, lambda net, x: net(x), [torch.randn(16, 3, 12, 12)])
    start_from_teacher(student, teacher, stats)
    config = RectifyConfig(**{"lr_real": 1e-3, "lambda_match": 0.5, **settings})
    return Rectifier(student, teacher, toy_task, config, stats)


def batch(seed=1):
    return torch.randn(8, 3, 12, 12, generator=torch.Generator().manual_seed(seed))


def weights_of(module):
    return {name: p.detach().clone() for name, p in module.named_parameters()}


def changed(before, module):
    return {name for name, p in module.named_parameters() if not torch.equal(before[name], p)}


def test_discriminator_losses_are_eq_2_and_4():
    real, fake = torch.randn(2, 3, dtype=torch.float64), torch.randn(2, 3, dtype=torch.float64)
    d_real, d_fake = real.sigmoid(), fake.sigmoid()
    expected = -(d_real.log().mean() + (1 - d_fake).log().mean())
    torch.testing.assert_close(discriminator_loss(real, fake), expected)
    torch.testing.assert_close(adversarial_loss(fake), ((1 - d_fake) ** 2).mean() / 2)


def judge(judges, maps):
    """Logits `[N, C]` of maps `[N, C, H, W]`, at the only point of `judges`."""
    return judges(pool(maps).flatten(0, 1)[None]).view(maps.shape[:2])


def test_adversarial_gradient_is_eq_12():
    torch.manual_seed(0)
    judges = DiscriminatorStack(1).double()
    maps = torch.randn(2, 3, 9, 9, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(adversarial_loss(judge(judges, maps)), maps)
    values = judge(judges, maps).sigmoid()
    expected = torch.zeros_like(maps)
    for n in range(2):
        for i in range(3):  # for each map -(1 - D(T_i)) dD/dT, over 2 x 3 maps
            (by_d,) = torch.autograd.grad(values[n, i], maps, retain_graph=True)
            expected += -(1 - values[n, i].detach()) * by_d / 6
    torch.testing.assert_close(gradient, expected)


def test_adversarial_gradient_reaches_c_as_in_eq_16():
    rectifier = make_rectifier(gan=True)
    rectifier.student.double(), rectifier.discriminators.double(), rectifier.map_norms.double()
    layer, x = rectifier.student[2], batch().double()
    values = judge(rectifier.discriminators.stacks["6"], rectifier.student(x)).sigmoid()
    (gradient,) = torch.autograd.grad(
        adversarial_loss(torch.logit(values)), layer.C, retain_graph=True
    )
    by_d = [torch.autograd.grad(v, layer.C, retain_graph=True)[0] for v in values.flatten()]
    pairs = zip(values.flatten(), by_d, strict=True)
    expected = sum(-(1 - value.detach()) * slope for value, slope in pairs) / values.numel()
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("size", [(1, 1), (4, 7), (8, 8), (8, 16), (32, 24), (22, 57)])
def test_pooling_is_adaptive_averaging(size):
    maps = torch.randn(2, 3, *size)
    expected = nn.functional.adaptive_avg_pool2d(maps, GRID)
    torch.testing.assert_close(spread(pool(maps)), expected)
    if max(size) > GRID:
        torch.testing.assert_close(pool(maps), expected)


@pytest.mark.parametrize("side", [4, 16, 22])
def test_gradients_of_pooled_maps_keep_the_memory_order_of_maps(side):
    maps = torch.randn(2, 3, side, side).contiguous(memory_format=torch.channels_last)
    seen = []
    maps.requires_grad_()
    between = maps * 1  # what stands in for the layers in front of the maps
    between.register_hook(lambda gradient: seen.append(gradient.stride()))
    pool(between).flatten(0, 1).square().sum().backward()
    assert seen == [maps.stride()]


def test_discriminators_see_small_maps_as_if_they_were_spread():
    judges, maps = DiscriminatorStack(3), torch.randn(3, 7, 4, 5)
    torch.testing.assert_close(judges(maps), judges(spread(maps)))


def test_maps_of_several_sizes_share_a_discriminator():
    torch.manual_seed(0)
    discriminators = Discriminators({"a": 3, "b": 3})
    sizes = ((4, 4), (8, 8))
    maps = [(point, torch.randn(2, 3, *size)) for size in sizes for point in ("a", "b")]
    (arranged,) = discriminators.arrange(maps)
    assert arranged.shape == (2, 12, GRID, GRID)
    torch.testing.assert_close(arranged[1, :6], spread(maps[1][1]).flatten(0, 1))
    torch.testing.assert_close(arranged[0, 6:], maps[2][1].flatten(0, 1))


def test_discriminators_judge_single_maps_of_any_size():
    judges = DiscriminatorStack(1)
    for side in (4, 6, 22, 57):
        maps = torch.randn(2, 5, side, side)
        assert pool(maps).shape == (2, 5, *(2 * [min(side, GRID)]))
        torch.testing.assert_close(judge(judges, maps)[:, 2:3], judge(judges, maps[:, 2:3]))


def test_each_discriminator_is_four_linear_layers_of_its_own_with_leaky_relu():
    judges, maps = DiscriminatorStack(3), torch.randn(3, 7, GRID, GRID)
    expected = [(3, 64, 64), (3, 64, 32), (3, 32, 16), (3, 16, 1)]
    assert [tuple(weight.shape) for weight in judges.weights] == expected
    for point in range(3):
        x = maps[point].flatten(1)
        for weight, bias in zip(judges.weights, judges.biases, strict=True):
            x = x @ weight[point] + bias[point, 0]
            x = torch.where(x > 0, x, SLOPE * x)
        torch.testing.assert_close(judges(maps)[point], x[:, 0])


def test_a_step_learns_everything_once():
    rectifier = make_rectifier()
    student, judges = weights_of(rectifier.student), weights_of(rectifier.discriminators)
    teacher = copy.deepcopy(rectifier.teacher.state_dict())
    logged = rectifier.step(batch(), epoch=0)
    assert changed(student, rectifier.student) == set(student)
    assert changed(judges, rectifier.discriminators) == set(judges)
    assert all(torch.equal(v, teacher[k]) for k, v in rectifier.teacher.state_dict().items())
    assert set(logged) == {"loss", "discriminator", "adversarial", "match", "kernel"}


def test_the_student_step_leaves_the_discriminators_alone():
    rectifier = make_rectifier(lr_discriminator=0.0)
    judges = weights_of(rectifier.discriminators)
    rectifier.step(batch(), epoch=0)
    assert changed(judges, rectifier.discriminators) == set()


def test_the_batch_norm_pass_fixes_w_and_c():
    rectifier = make_rectifier()
    before, judges = weights_of(rectifier.student), weights_of(rectifier.discriminators)
    mean = rectifier.student[3].running_mean.clone()
    rectifier.norm_step(batch(), epoch=0)
    names = {"1.weight", "1.bias", "2.norm.weight", "2.norm.bias", "3.weight", "3.bias"}
    assert changed(before, rectifier.student) <= names
    assert {"3.weight", "3.bias"} <= changed(before, rectifier.student)
    assert changed(judges, rectifier.discriminators) == set()
    assert not torch.equal(mean, rectifier.student[3].running_mean)
    before = weights_of(rectifier.student)
    rectifier.step(batch(), epoch=0)  # the next step learns W and C again
    assert {"2.weight", "2.C"} <= changed(before, rectifier.student)


@pytest.mark.parametrize(
    ("settings", "logged", "still"),
    [
        ({"rectify": False}, {"loss", "discriminator", "adversarial", "match"}, {"2.C"}),
        ({"gan": False}, {"loss", "match", "kernel"}, set()),
        ({"gan": False, "lambda_match": 0.0}, {"loss", "kernel"}, set()),
        (
            {"lr_real": 0.0},
            {"loss", "discriminator", "adversarial", "match", "kernel"},
            {"0.weight", "0.bias"},
        ),
    ],
)
def test_a_part_that_is_switched_off_learns_and_logs_nothing(settings, logged, still):
    rectifier = make_rectifier(**settings)
    before = weights_of(rectifier.student)
    assert set(rectifier.step(batch(), 0)) == logged
    assert still.isdisjoint(changed(before, rectifier.student))
    assert "2.weight" in changed(before, rectifier.student)


def test_frozen_real_layers_keep_their_statistics():
    rectifier = make_rectifier(lr_real=0.0)
    before = copy.deepcopy(rectifier.student[1].state_dict())
    rectifier.step(batch(), 0)
    assert all(torch.equal(v, before[k]) for k, v in rectifier.student[1].state_dict().items())


def test_batch_norms_keep_their_statistics_from_an_epoch_on():
    rectifier = make_rectifier(norm_epochs=1)
    norms = [m for m in rectifier.student.modules() if isinstance(m, nn.BatchNorm2d)]
    rectifier.step(batch(), 0)
    assert not rectifier.keeps_statistics(0)
    assert all(norm.training for norm in norms)
    batches = [batch(seed) for seed in (2, 3)]
    rectifier.measure_statistics(batches)
    seen = rectifier.student[0](torch.cat(batches))
    torch.testing.assert_close(norms[0].running_mean, seen.mean((0, 2, 3)))
    measured = [norm.running_mean.clone() for norm in norms]
    before = weights_of(rectifier.student)
    rectifier.step(batch(), 1)
    rectifier.norm_step(batch(), 1)
    assert all(
        torch.equal(norm.running_mean, mean) for norm, mean in zip(norms, measured, strict=True)
    )
    assert changed(before, rectifier.student) == set(before)  # scales and shifts go on learning


def test_the_pass_can_measure_statistics_alone_or_train_the_affine_parameters_alone():
    affine = {f"{norm}.{name}" for norm in ("1", "2.norm", "3") for name in ("weight", "bias")}
    for learns, parameters, moves in (("statistics", set(), True), ("affine", affine, False)):
        rectifier = make_rectifier(bn_learns=learns)
        before, mean = weights_of(rectifier.student), rectifier.student[3].running_mean.clone()
        rectifier.norm_step(batch(), 0)
        assert changed(before, rectifier.student) == parameters
        assert torch.equal(mean, rectifier.student[3].running_mean) != moves


def test_discriminators_can_see_all_maps_of_an_image():
    discriminators = Discriminators({"a": 3, "b": 3}, whole=True)
    maps = [(point, torch.randn(2, 3, 9, 9)) for point in ("a", "b")]
    (arranged,) = discriminators.arrange(maps)
    assert arranged.shape == (2, 2, 3, GRID, GRID)
    torch.testing.assert_close(arranged[1], spread(maps[1][1]))
    (logits,) = discriminators([arranged])
    assert logits.shape == (2, 2)
    shuffled = arranged[:, :, [1, 0, 2]]
    assert not torch.equal(discriminators([shuffled])[0], logits)
    assert make_rectifier(gan_sees="image").step(batch(), 0)["adversarial"] > 0


def test_discriminators_can_be_deceived_by_the_log_likelihood():
    fake = torch.randn(2, 3, dtype=torch.float64)
    torch.testing.assert_close(adversarial_loss(fake, "log"), -fake.sigmoid().log().mean())
    rectifiers = [make_rectifier(gan_loss=form) for form in ("square", "log")]
    losses = [float(rectifier.step(batch(), 0)["adversarial"]) for rectifier in rectifiers]
    assert losses[0] < losses[1]  # (1 - D)^2 / 2 is below -log D for all D below 1


def test_lambda_follows_its_schedule():
    config = RectifyConfig(lambda_decay=0.9, lambda_epochs=60)
    assert [config.lambda_factor(e) for e in (0, 59, 60, 120)] == pytest.approx([1, 1, 0.9, 0.81])


def test_losses_fall():
    rectifier = make_rectifier(lr_binary=1e-2, lr_norm=1e-2)
    losses = [float(rectifier.step(batch(), 0)["loss"]) for _ in range(60)]
    assert sum(losses[-10:]) / 10 < 0.7 * losses[0]  # single losses go up and down by 0.01


def test_state_continues_to_the_bit():
    straight, first = make_rectifier(), make_rectifier()
    for seed in range(4):
        straight.step(batch(seed), 0)
    for seed in range(2):
        first.step(batch(seed), 0)
    second = make_rectifier()
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for seed in range(2, 4):
        second.step(batch(seed), 0)
    for a, b in zip(
        straight.student.state_dict().values(), second.student.state_dict().values(), strict=True
    ):
        assert torch.equal(a, b)


def test_maps_that_are_not_there_are_refused():
    with pytest.raises(ValueError, match="there is no teacher"):
        Rectifier(float_net(), None, toy_task, RectifyConfig())
    with pytest.raises(ValueError, match="no binary layer"):
        Rectifier(float_net(), float_net(), toy_task, RectifyConfig(), {})


def test_maps_are_kept_only_while_recording():
    net = float_net()
    recorder = MapRecorder(net, ["1", "3"])
    net(batch())
    with recorder.recording() as maps:
        net(batch())
    net(batch())
    assert [point for point, _ in maps] == ["1", "3"]


def test_no_hook_is_left_behind():
    net = float_net()
    recorder = MapRecorder(net, ["1", "3"])
    for _ in range(3):
        with recorder.recording():
            net(batch())
    with pytest.raises(ZeroDivisionError), recorder.recording():
        raise ZeroDivisionError
    assert not any(module._forward_hooks for module in net.modules())


class WritesIntoMaps(nn.Module):
    """A batch-norm whose output `rectify` changes in place afterwards."""

    def __init__(self, rectify):
        super().__init__()
        torch.manual_seed(3)
        self.conv = nn.Conv2d(3, 6, 3, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.rectify = rectify

    def forward(self, x):
        return self.rectify(self.norm(self.conv(x)))


@pytest.mark.parametrize("rectify", [nn.ReLU(inplace=True), torch.relu_, lambda x: x.clamp_(min=0)])
def test_maps_are_those_that_were_put_out_whatever_is_written_into_them(rectify):
    found = []
    for net in (WritesIntoMaps(torch.relu), WritesIntoMaps(rectify)):
        recorder = MapRecorder(net, ["norm"])
        for _ in range(3):  # the first step copies maps, the others do as it has shown
            with recorder.recording() as maps:
                net(batch()).sum().backward()
            found.append(maps[0][1])
    assert (found[0] < 0).any()
    assert all(torch.equal(found[i], found[i + 3]) for i in range(3))


def test_a_network_that_begins_to_write_into_its_maps_is_an_error():
    net = WritesIntoMaps(torch.relu)
    recorder = MapRecorder(net, ["norm"])
    with recorder.recording():
        net(batch())
    net.rectify = torch.relu_
    with (
        pytest.raises(RuntimeError, match="writes into its feature maps in this pass"),
        recorder.recording(),
    ):
        net(batch())


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"lambda_kernel": -1.0}, "lambda_kernel is -1"),
        ({"bn_pass": 2.0}, "bn_pass is 2"),
        ({"lambda_epochs": 0}, "epochs is 0"),
        ({"norm_epochs": -2}, "norm_epochs is -2; it must be 0 or more, or -1 for all epochs"),
    ],
)
def test_config_names_what_is_wrong(setting, message):
    with pytest.raises(ValueError, match=message):
        RectifyConfig(**setting)


def test_maps_are_normalised_by_their_statistics():
    student = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Identity(), nn.BatchNorm2d(3))
    binarize(student, "rbcn", skip_first=False, skip_1x1=False)
    teacher = nn.Sequential(nn.Identity(), nn.Identity(), nn.Identity())
    maps = torch.randn(4, 3, 5, 5) * torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1, 1) + 7
    stats = measure_maps(student, teacher, lambda net, batch: net(batch), [maps[:2], maps[2:]])
    # This batch-norm reads the layer's output through an identity.
    assert list(stats) == ["2"]
    mean, std = stats["2"]
    torch.testing.assert_close(mean, maps.mean((0, 2, 3)))
    torch.testing.assert_close(std, maps.std((0, 2, 3), correction=0))
    normal = MapNorm(mean, std)(maps)
    torch.testing.assert_close(normal.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    shifted = maps + 2 * std.view(1, 3, 1, 1)  # two deviations away everywhere
    torch.testing.assert_close(MapNorm(mean, std).distance(shifted, maps), torch.tensor(2.0))


def test_the_distance_of_maps_is_that_of_normalised_ones_and_so_is_its_gradient():
    torch.manual_seed(0)
    norm, real = MapNorm(torch.randn(6), torch.rand(6) + 0.5), torch.randn(4, 6, 5, 5)
    fakes = [
        torch.randn(4, 6, 5, 5, generator=torch.Generator().manual_seed(1)).requires_grad_()
        for _ in range(2)
    ]
    losses = [norm.distance(fakes[0], real), (norm(fakes[1]) - norm(real)).square().mean() / 2]
    torch.testing.assert_close(*losses)
    sum(3 * loss for loss in losses).backward()
    torch.testing.assert_close(fakes[0].grad, fakes[1].grad)


def test_a_dead_channel_does_not_explode():
    norm = MapNorm(torch.zeros(2), torch.tensor([1.0, 0.0]))
    # A deviation counts as at least a tenth of the layer's mean deviation.
    assert norm(torch.ones(1, 2, 1, 1)).max() <= 20


def test_maps_need_a_batch_norm_and_a_twin():
    student = nn.Sequential(nn.Conv2d(3, 3, 3), nn.ReLU(), nn.BatchNorm2d(3))
    binarize(student, "rbcn", skip_first=False)
    batches = [torch.randn(1, 3, 4, 4)]
    with pytest.raises(ValueError, match="no batch-norm reads the output of binary layer '0'"):
        measure_maps(student, student, lambda net, batch: net(batch), batches)
    student[1] = nn.Identity()
    with pytest.raises(ValueError, match="the teacher has no layer '2'"):
        measure_maps(
            student, nn.Sequential(nn.Conv2d(3, 3, 3)), lambda net, batch: net(batch), batches
        )


def test_a_teacher_of_other_shapes_is_refused():
    student, teacher = float_net(), float_net()
    binarize(student, "rbcn")
    teacher[2] = nn.Conv2d(4, 8, 3)
    teacher[3] = nn.BatchNorm2d(8)
    message = r"layer '2': the teacher's filters are \(8, 4, 3, 3\), the student's \(6, 4,"
    with pytest.raises(ValueError, match=message):
        start_from_teacher(student, teacher, {})
    stats = {"3": (torch.zeros(6), torch.ones(6))}
    rectifier = Rectifier(student, teacher, toy_task, RectifyConfig(), stats)
    message = r"maps at '3' do not match: the student's is \(8, 6, 8, 8\), the"
    with pytest.raises(ValueError, match=message):
        rectifier.step(batch(), 0)


def test_a_student_starts_from_its_teacher():
    rectifier = make_rectifier()
    student, teacher = rectifier.student, rectifier.teacher
    assert torch.equal(student[0].weight, teacher[0].weight)
    assert torch.equal(student[2].weight.sign(), teacher[2].weight.sign())
    assert student[2].weight.std().item() == pytest.approx(1 / 3, rel=1e-3)


def test_parameter_groups_cover_every_parameter_once():
    student = make_rectifier().student
    groups = parameter_groups(student)
    assert sum(map(len, groups.values())) == len(list(student.parameters()))
    assert {k: len(v) for k, v in groups.items()} == {"binary": 1, "real": 2, "norm": 6, "c": 1}


def test_a_trained_network_starts_again_as_it_was():
    """Its batch-norms are folded: mean 0, variance 1, and their summand in the bias.

    Its first layer has tiny weights.
    """
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3, bias=False)
    )
    net.append(nn.BatchNorm2d(4))
    for norm in (net[1], net[4]):
        norm.weight.data.uniform_(0.5, 2)
        norm.bias.data.uniform_(-1, 1)
    net[0].weight.data.mul_(0.01)
    batches = [torch.randn(16, 3, 12, 12) * 500 + 200 for _ in range(8)]
    before = net.eval()(batches[0])
    start_again(net, net, batches)
    torch.testing.assert_close(net.eval()(batches[0]), before, rtol=1e-3, atol=1e-3)
    whole = torch.cat(batches)
    assert (net.train()(whole) - net.eval()(whole)).abs().mean() < 0.02 * before.std()
    for conv, fan_in in ((net[0], 27), (net[3], 72)):
        assert conv.weight.std().item() == pytest.approx((3 * fan_in) ** -0.5, rel=1e-4)


def test_losses_of_discriminators_are_means_over_points_of_all_widths():
    trial = Trial(trial_config(stages="4-4-8-16", batch_size=4), torch.device("cpu"))
    rectifier, (batch,) = trial.rectifier, trial.batches(1)
    rectifier._train_mode(0)
    _, _, fake, real = rectifier._forward(batch, rectifier.teacher)
    by_point = []
    for (point, t), (_, r) in zip(fake, real, strict=True):
        width = str(t.shape[1])
        same = rectifier.discriminators.points[width]
        judges = rectifier.discriminators.stacks[width]
        norm = rectifier._norm(point)
        number = same.index(point)
        both = [norm(pool(x)).flatten(0, 1).expand(len(same), -1, -1, -1) for x in (r, t)]
        by_point.append(discriminator_loss(*(judges(x)[number] for x in both)))
    loss = rectifier._update_discriminators(rectifier._pooled(fake), rectifier._pooled(real))
    assert len(by_point) == 16
    torch.testing.assert_close(loss, torch.stack(by_point).mean())
