"""The shipped weights: both files are the same network, which tracks a real video."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from conftest import ROOT, part_of
from safetensors.torch import load_file

from rbsf.datasets.images.labelled import open_labelled
from rbsf.datasets.video.sequences import load_sequences
from rbsf.engine.file import read_packed
from rbsf.engine.graph import PackedModel
from rbsf.engine.run import Engine
from rbsf.eval.metrics import overlaps, score_sequence
from rbsf.eval.runner import track_sequence
from rbsf.eval.trackers.static import StaticTracker
from rbsf.export.first_layer import quantise_first
from rbsf.export.pack import export_tracker
from rbsf.layers import binary_layers
from rbsf.shipped import CLASSIFIER, find_trained, find_weights, shipped_trackers
from rbsf.tracker.loading import constants_of, load_network, make_tracker
from rbsf.tracker.rbsf2 import PackedNetwork, TorchNetwork
from rbsf.tracker.siamfc import SiamFC
from rbsf.weights import load_weights

PACKED = ROOT / "weights" / "rbsf.safetensors"
TRAINED = ROOT / "weights" / "rbsf-train.safetensors"
FLOAT = ROOT / "weights" / "siamfc.safetensors"
PACKED_2 = ROOT / "weights" / "rbsf2.safetensors"
TRAINED_2 = ROOT / "weights" / "rbsf2-train.safetensors"


def test_trackers_are_found_by_their_files():
    trackers = shipped_trackers()
    assert {"rbsf", "rbsf2", "siamfc"} <= trackers.keys()
    assert not {"rbsf-train", "rbsf2-train"} & trackers.keys()
    assert trackers["rbsf"].samefile(PACKED)


def test_the_classifier_is_no_tracker_and_knows_real_images(real_data):
    assert CLASSIFIER not in shipped_trackers()
    packed = read_packed(find_weights(CLASSIFIER))
    assert packed.task == "classifier"
    assert "/" not in str(packed.info["config"]), "machine paths stay out of the weights"
    _, test = open_labelled("cifar100", part_of(real_data, "cifar-100-python"))
    assert packed.info["input"]["classes"] == list(test.classes)
    batch = next(iter(test.batches(500, 0, 0, train=False)))
    logits = Engine(packed, threads=1)(batch["image"].permute(0, 2, 3, 1).contiguous().numpy())
    assert (logits.argmax(1) == batch["label"].numpy()).mean() > 0.5


def test_a_name_stands_for_the_trained_weights_and_a_path_for_itself():
    assert find_trained("rbsf").samefile(TRAINED)
    assert find_trained("siamfc").samefile(FLOAT)
    assert find_trained(PACKED) == PACKED


def test_they_are_the_1_bit_network_and_say_how_they_were_trained():
    net, model, info = load_weights(TRAINED)
    assert model == "rbsf"
    assert len(binary_layers(net)) == 4
    assert TRAINED.stat().st_size < 500_000
    packed = read_packed(PACKED)
    assert packed.model == "rbsf"
    assert PACKED.stat().st_size <= 450_000
    for about in (info, packed.info):
        assert {"config", "commit", "torch"} <= about.keys()
        assert "/" not in str(about["config"]), "machine paths stay out of the weights"


def test_both_files_are_the_same_network():
    net, _, _ = load_weights(TRAINED)
    packed = read_packed(PACKED)
    assert packed.info["source_sha256"] == hashlib.sha256(TRAINED.read_bytes()).hexdigest()
    before = net.layers[0].conv.weight.clone()
    quantise_first(net)
    assert before.equal(net.layers[0].conv.weight), (
        "the first layer of the training form is on the 7-bit grid"
    )
    exported = export_tracker(net, "rbsf").packed
    for size in (127, 255):
        crops = np.random.default_rng(size).integers(0, 256, (2, size, size, 3), np.uint8)
        maps, shipped = (bits_and_features(model, crops) for model in (exported, packed))
        assert len(maps) == 5
        for found, expected in zip(maps, shipped, strict=True):
            np.testing.assert_array_equal(found, expected, strict=True)


def bits_and_features(model: PackedModel, crops: np.ndarray) -> list[np.ndarray]:
    maps = Engine(model).outputs(crops)
    return [maps[node.name] for node in model.nodes if node.op in ("sign", "channels_first")]


def test_the_float_network_says_how_it_was_trained():
    net, model, info = load_weights(FLOAT)
    assert model == "siamfc"
    assert not binary_layers(net)
    assert {"config", "commit", "torch"} <= info.keys()
    assert "/" not in str(info["config"]), "machine paths stay out of the weights"


def test_rb_sf_2_is_the_same_network_in_both_files():
    net, model, info = load_weights(TRAINED_2)
    packed = read_packed(PACKED_2)
    assert (model, packed.model) == ("rbsf2", "rbsf2")
    assert PACKED_2.stat().st_size < 450_000
    assert packed.info["source_sha256"] == hashlib.sha256(TRAINED_2.read_bytes()).hexdigest()
    for about in (info, packed.info):
        assert {"config", "commit", "torch"} <= about.keys()
        assert "/" not in str(about["config"]), "machine paths stay out of the weights"
    random = np.random.default_rng(0)
    exemplar, region = (random.integers(0, 256, (n, n, 3), np.uint8) for n in (127, 255))
    found, expected = (
        network.answer(network.learn(exemplar), region)
        for network in (PackedNetwork(packed), TorchNetwork(net))
    )
    np.testing.assert_array_equal(found.target, expected.target, strict=True)
    np.testing.assert_array_equal(found.sides, expected.sides, strict=True)


def test_training_of_rb_sf_2_can_go_on_from_its_latent_weights():
    latent = load_file(ROOT / "docs" / "experiments" / "rbsf2" / "latent.safetensors")
    assert all(tensor.isfinite().all() for tensor in latent.values())
    shipped, _, _ = load_weights(TRAINED_2)
    for name, layer in binary_layers(shipped).items():
        filters = latent[f"{name}.weight"].float()
        assert torch.equal(filters >= 0, layer.weight >= 0), name


def test_signs_of_rb_sf_2_vary_from_place_to_place(real_data):
    """A channel whose sign is the same everywhere computes nothing, and hardly learns."""
    net, _, _ = load_weights(TRAINED_2)
    (sequence,) = load_sequences(real_data / "OTB", names=["Couple"])
    constant: list[float] = []

    def look(_, args, out):
        means = torch.sign(out).mean((0, 2, 3)).abs()
        constant.append(float((means > 0.9).float().mean()))

    for layer in binary_layers(net.backbone).values():
        layer.norm.register_forward_hook(look)
    frames = np.stack([sequence.image(i)[:255, :255] for i in range(0, 100, 20)])
    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2).float()
    with torch.inference_mode():
        net.eval().backbone(pixels)
    assert len(constant) == 6
    assert max(constant) < 0.15


@pytest.mark.parametrize("weights", [PACKED, PACKED_2], ids=["rbsf", "rbsf2"])
@pytest.mark.parametrize("name", ["Crossing", "Couple"])
def test_they_follow_a_target_of_otb(name, weights, real_data):
    (sequence,) = load_sequences(real_data / "OTB", names=[name])
    tracker = make_tracker(load_network(weights, "cpu"), constants_of(weights)())
    boxes = track_sequence(tracker, sequence).boxes
    tracked = score_sequence(boxes, sequence.boxes)
    still = score_sequence(track_sequence(StaticTracker(), sequence).boxes, sequence.boxes)
    assert tracked.scores.auc > still.scores.auc + 0.2
    assert overlaps(boxes[1:40], sequence.boxes[1:40]).mean() > 0.5


@pytest.mark.slow
def test_packed_and_torch_give_the_same_boxes_of_a_real_video(real_data):
    (sequence,) = load_sequences(real_data / "OTB", names=["Skiing"])
    packed, torch = (
        track_sequence(
            SiamFC(load_network(PACKED, "cpu", engine=engine)), sequence.part(0, 30)
        ).boxes
        for engine in ("packed", "torch")
    )
    assert len(packed) == 30
    np.testing.assert_allclose(packed, torch, atol=0.1)
