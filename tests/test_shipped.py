"""The weights that ship: what they are, and that they track a real video."""

from __future__ import annotations

import pytest
from conftest import ROOT

from datasets.sequences import load_sequences
from eval.metrics import score_sequence
from eval.runner import track_sequence
from eval.trackers import StaticTracker
from rbsf.layers import binary_layers
from rbsf.weights import load_weights
from tracker.backbones import load_backbone
from tracker.siamfc import SiamFC

WEIGHTS = ROOT / "weights" / "rbsf.safetensors"


def test_they_are_the_1_bit_network_and_say_how_they_were_trained():
    net, model, info = load_weights(WEIGHTS)
    assert model == "rbsf"
    assert len(binary_layers(net)) == 4
    assert WEIGHTS.stat().st_size < 500_000
    assert {"config", "commit", "torch"} <= info.keys()
    assert "/" not in str(info["config"]["teacher"]), "machine paths stay out of the weights"


@pytest.mark.parametrize("name", ["Crossing", "Couple"])
def test_they_follow_a_target_of_otb(name, real_data):
    (sequence,) = load_sequences(real_data / "OTB", names=[name])
    tracked = score_sequence(track_sequence(SiamFC(load_backbone(WEIGHTS)), sequence).boxes, sequence.boxes)
    still = score_sequence(track_sequence(StaticTracker(), sequence).boxes, sequence.boxes)
    assert tracked.scores.auc > still.scores.auc + 0.2
