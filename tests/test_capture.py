"""Captured steps of training, with a stand-in for CUDA's graphs.

Recording runs nothing, and a replay runs what was recorded.
"""

from __future__ import annotations

import pytest
import torch
from test_rectify import batch, make_rectifier
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from rbsf.tools.step_trial import Trial, trial_config
from rbsf.train import adversarial, capture
from rbsf.train.capture import WARM_UP, CapturedSteps


def task_of_dict(student, teacher, samples):
    out = student(samples["image"])
    if teacher is not None:
        teacher(samples["image"])
    error = (out.mean((2, 3)) - 1).square().mean()
    return error, {"error": error}


def make(**settings):
    rectifier = make_rectifier(lambda_epochs=1, **settings)
    rectifier.task = task_of_dict
    return rectifier


class StandIn:
    """A graph that records work of the CPU."""

    made = 0

    def __init__(self, rectifier, function):
        before = {name: tensor.clone() for name, tensor in tensors_of(rectifier).items()}
        self.function, self.result = function, function()
        for name, tensor in tensors_of(rectifier).items():
            tensor.data.copy_(before[name])
        StandIn.made += 1

    def replay(self):
        self.result.copy_(self.function())


def tensors_of(rectifier):
    """Weights, statistics and states of the optimizers, by name."""
    state = rectifier.state_dict()
    found = {
        (name, key): tensor
        for name, part in state["modules"].items()
        for key, tensor in part.items()
    }
    for name, part in state["optimizers"].items():
        found |= {
            (name, p, key): tensor
            for p, memory in part["state"].items()
            for key, tensor in memory.items()
        }
    return found


def train(steps):
    """Train three epochs of five steps and a norm pass of four; the logged losses."""
    logged, seed = [], 0
    for epoch in range(3):
        for number in range(9):
            step, seed = steps.step if number < 5 else steps.norm_step, seed + 1
            logged.append(step({"image": batch(seed)}, epoch))
    return logged


@pytest.mark.parametrize(
    "settings", [{}, {"optimizer": "sgd"}, {"gan": False, "lambda_match": 0.0}]
)
def test_replayed_steps_are_the_plain_ones_to_the_bit(settings, monkeypatch):
    monkeypatch.setattr(StandIn, "made", 0)
    plain, captured = make(**settings), make(**settings)
    expected = train(plain)
    monkeypatch.setattr(capture, "CudaGraph", lambda function: StandIn(captured, function))
    found = train(CapturedSteps(captured))
    assert StandIn.made == 6, "both kinds, anew in each epoch as lambda changes"
    for name, tensor in tensors_of(plain).items():
        assert torch.equal(tensor, tensors_of(captured)[name]), name
    assert [{k: float(v) for k, v in row.items()} for row in found] == [
        {k: float(v) for k, v in row.items()} for row in expected
    ]


def test_what_cannot_be_recorded_is_said_once_and_goes_on_step_by_step(capsys, monkeypatch):
    plain, captured = make(), make()

    def refuse(function):
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    train(plain)
    monkeypatch.setattr(capture, "CudaGraph", refuse)
    steps = CapturedSteps(captured)
    train(steps)
    assert steps.failure == "operation not permitted when stream is capturing"
    assert capsys.readouterr().err.count("cannot be captured") == 1
    for name, tensor in tensors_of(plain).items():
        assert torch.equal(tensor, tensors_of(captured)[name]), name


def test_a_recording_that_breaks_off_leaves_nothing_held(monkeypatch):
    rectifier = make()

    def break_off(function):
        rectifier.task = None
        try:
            function()
        finally:
            rectifier.task = task_of_dict

    def fail(function):
        try:
            break_off(function)
        except TypeError:
            raise RuntimeError("broken off") from None

    monkeypatch.setattr(capture, "CudaGraph", fail)
    steps = CapturedSteps(rectifier)
    for seed in range(WARM_UP + 1):
        steps.norm_step({"image": batch(seed)}, 0)
    assert steps.failure == "'NoneType' object is not callable", "what came first"
    assert all(p.requires_grad for p in rectifier.student.parameters())


def test_a_batch_of_another_form_is_recorded_anew(monkeypatch):
    monkeypatch.setattr(StandIn, "made", 0)
    rectifier = make()
    monkeypatch.setattr(capture, "CudaGraph", lambda function: StandIn(rectifier, function))
    steps = CapturedSteps(rectifier)
    for count in (8, 8, 8, 8, 8, 4, 4):
        steps.step({"image": batch()[:count]}, 0)
    assert StandIn.made == 2


def test_a_checkpoint_keeps_the_options_of_the_device_it_is_loaded_on():
    rectifier, other = make(), make()
    rectifier.step({"image": batch()}, 0)
    state = rectifier.state_dict()
    for optimizer in state["optimizers"].values():
        for group in optimizer["param_groups"]:
            group |= {"fused": True, "lr": torch.tensor(0.5), "capturable": True}
    other.load_state_dict(state)
    for optimizer in other.optimizers.by_name.values():
        assert optimizer.param_groups[0]["fused"]
        assert not optimizer.param_groups[0]["capturable"]
    other.step({"image": batch()}, 0)


class TestAStepOnAnotherDevice:
    """Steps of a CIFAR network on the device `meta`, whose tensors have no values.

    A recording asks for the same: reading a value, as `.item()` does, or mixing in a tensor of the
    CPU is an error there.
    """

    @pytest.fixture(autouse=True)
    def _no_weights_of_pixels_kept(self):
        """Keep no cached weights from an earlier test, and none for a later one."""
        adversarial._averages.cache_clear()
        yield
        adversarial._averages.cache_clear()

    @pytest.mark.parametrize(
        "settings",
        [
            {},
            {"lambda_match": 1.0},
            {"gan": False},
            {"gan": False, "rectify": False, "method": "bireal"},
            {"gan": False, "method": "pcnn"},
            {"gan": False, "method": "xnor_k"},
            {"gan": False, "method": "float", "rectify": False, "start": "random"},
        ],
    )
    def test_it_asks_for_no_value_and_takes_nothing_from_the_cpu(self, settings):
        trial = Trial(
            trial_config(stages="4-4-8-16", batch_size=4, **settings), torch.device("cpu")
        )
        rectifier = trial.rectifier
        # This device has no autocast.
        rectifier.task.classify = lambda net, images: net(images)
        (batch,) = trial.batches(1)
        with FakeTensorMode():
            for module in rectifier.modules().values():
                make_valueless(module)
            for optimizer in rectifier.optimizers.by_name.values():
                optimizer.step = lambda: None  # it holds tensors with values
            batch = {name: valueless(tensor) for name, tensor in batch.items()}
            for step in (rectifier.step, rectifier.norm_step):
                logged = step(batch, 0)
                assert {tensor.device.type for tensor in logged.values()} == {"meta"}

    def test_what_asks_for_a_value_is_noticed(self):
        with FakeTensorMode(), pytest.raises(DataDependentOutputException):
            torch.ones(2, device="meta").sum().item()


def make_valueless(module):
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            part._parameters[name] = torch.nn.Parameter(
                valueless(parameter), parameter.requires_grad
            )
        for name, buffer in part.named_buffers(recurse=False):
            part._buffers[name] = valueless(buffer)


def valueless(tensor):
    form = torch.channels_last if tensor.ndim == 4 else torch.contiguous_format
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta", memory_format=form)
