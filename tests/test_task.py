"""The Siamese task: response maps, labels and losses."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rbsf.binarize import hard_sign
from rbsf.models import build
from rbsf.tracker.task import (
    BIAS_LIMIT,
    RESPONSE_SCALE,
    SiameseTask,
    balanced_logistic,
    best_bias,
    cross_correlate,
    hit_rate,
    labels_for,
    response_distance,
)


def make_batch(count=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        "exemplar": torch.randint(
            0, 256, (count, 3, 127, 127), dtype=torch.uint8, generator=generator
        ),
        "search": torch.randint(
            0, 256, (count, 3, 255, 255), dtype=torch.uint8, generator=generator
        ),
        "shift": torch.zeros(count, 2),
        "negative": torch.zeros(count, dtype=torch.bool),
    }


def test_cross_correlation_peaks_where_the_exemplar_was_cut_out():
    torch.manual_seed(0)
    search = torch.randn(2, 8, 22, 22)
    exemplar = torch.stack([search[0, :, 3:9, 5:11], search[1, :, 10:16, 0:6]])
    response = cross_correlate(exemplar, search)
    assert response.shape == (2, 17, 17)
    assert [divmod(int(r.argmax()), 17) for r in response] == [(3, 5), (10, 0)]
    torch.testing.assert_close(response[0, 3, 5], exemplar[0].square().sum() * RESPONSE_SCALE)


def test_labels_are_positive_within_16_pixels_of_the_target():
    labels = labels_for(torch.tensor([[0.0, 0.0], [24.0, -16.0]]), 17)
    assert labels.sum((1, 2)).tolist() == [13, 13]  # a disc of radius two cells
    assert labels[0, 8, 8] == labels[0, 8, 10] == labels[0, 6, 8] == 1
    assert labels[0, 8, 11] == labels[0, 6, 10] == 0
    assert labels[1, 6, 11] == 1  # 3 cells right, 2 cells up


def test_balanced_logistic_is_its_closed_form():
    response, labels = torch.tensor([[[2.0, -1.0, 0.5]]]), torch.tensor([[[1.0, 0.0, 0.0]]])
    softplus = torch.nn.functional.softplus
    expected = (softplus(torch.tensor(-2.0)) + softplus(torch.tensor([-1.0, 0.5])).mean()) / 2
    torch.testing.assert_close(balanced_logistic(response, labels), expected)


def test_a_map_without_positives_counts_its_negatives():
    response = torch.tensor([[[2.0, 0.0]]])
    expected = torch.nn.functional.softplus(response).mean()
    torch.testing.assert_close(balanced_logistic(response, torch.zeros_like(response)), expected)


def test_response_distance_ignores_scale_and_offset():
    maps = torch.randn(3, 17, 17)
    assert response_distance(maps, 4 * maps + 7) < 1e-10
    assert response_distance(maps, -maps).item() == pytest.approx(4 * 288 / 289, rel=1e-3)


def test_a_teacher_adds_the_distance_of_responses_to_the_loss():
    torch.manual_seed(0)
    net, teacher, batch = build("siamfc").eval(), build("siamfc").eval(), make_batch()
    with torch.no_grad():
        loss, logged = SiameseTask()(net, None, batch)
        assert set(logged) == {"logistic"}
        assert loss == logged["logistic"]
        loss, logged = SiameseTask(match=0.5)(net, teacher, batch)
        torch.testing.assert_close(loss, logged["logistic"] + 0.5 * logged["response"])
        same, logged = SiameseTask(match=0.5)(net, net, batch)
        torch.testing.assert_close(same, logged["logistic"], atol=1e-5, rtol=0)


class Recorded(nn.Module):
    """A network that keeps its outputs.

    A second run may round differently, which can turn a sign next to zero.
    """

    def __init__(self, net):
        super().__init__()
        self.net, self.outputs = net, []

    def forward(self, x):
        self.outputs.append(self.net(x))
        return self.outputs[-1]


def test_correlation_of_signs_is_the_students_alone():
    torch.manual_seed(0)
    student = Recorded(build("siamfc").eval())
    teacher = Recorded(build("siamfc").eval())
    batch = make_batch()
    task = SiameseTask(bits=True)
    response = task.respond(student, batch, bits=True)
    assert response.abs().max() <= 9.216 + 1e-4  # 256 x 6 x 6 products of signs
    torch.testing.assert_close(response, cross_correlate(*map(hard_sign, student.outputs)))
    _, logged = task(student, teacher, batch)
    signs = cross_correlate(*map(hard_sign, student.outputs[2:]))
    torch.testing.assert_close(
        logged["response"], response_distance(signs, cross_correlate(*teacher.outputs))
    )
    response.sum().backward()
    assert student.net.layers[0].conv.weight.grad.abs().sum() > 0


def test_negative_pairs_have_no_positive_label():
    torch.manual_seed(0)
    net, batch = build("siamfc").eval(), make_batch()
    batch["negative"][0] = True
    with torch.no_grad():
        response = SiameseTask().respond(net, batch)
        labels = labels_for(batch["shift"], 17)
        labels[0] = 0
        loss, _ = SiameseTask()(net, None, batch)
    torch.testing.assert_close(
        loss, balanced_logistic(response + best_bias(response, labels), labels)
    )


def test_the_bias_is_where_the_loss_is_least():
    torch.manual_seed(0)
    response, labels = torch.randn(4, 17, 17) + 5, labels_for(torch.randn(4, 2) * 16, 17)
    bias = best_bias(response, labels).requires_grad_()
    (slope,) = torch.autograd.grad(balanced_logistic(response + bias, labels), bias)
    assert slope.abs() < 1e-4
    torch.testing.assert_close(
        best_bias(response + 3, labels), bias.detach() - 3, atol=1e-3, rtol=0
    )


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_the_bias_of_labels_of_one_kind_is_finite(label):
    response = torch.randn(2, 17, 17)
    labels = torch.full_like(response, label)
    bias = best_bias(response, labels)
    assert bias.abs() <= BIAS_LIMIT
    assert balanced_logistic(response + bias, labels) < 1e-6


def test_hit_rate_counts_maps_with_their_peak_on_the_target():
    labels = labels_for(torch.zeros(2, 2), 17)
    response = torch.zeros(2, 17, 17)
    response[0, 8, 9], response[1, 0, 0] = 1, 1
    assert hit_rate(response, labels) == 0.5


def test_an_offset_of_all_responses_costs_nothing():
    torch.manual_seed(0)
    net, batch = build("siamfc").eval(), make_batch()
    response = SiameseTask().respond(net, batch)
    labels = labels_for(batch["shift"], 17)
    losses = [balanced_logistic(r + best_bias(r, labels), labels) for r in (response, response + 4)]
    torch.testing.assert_close(losses[0], losses[1], atol=1e-3, rtol=0)
