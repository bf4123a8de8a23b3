"""The training of RB-SF 2 from a made-up teacher: weights, stop and resume, a user's mistakes."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import pytest
import torch

from rbsf.layers import binary_layers
from rbsf.models import build
from rbsf.tools.recipes import rbsf2
from rbsf.tools.recipes.presence import with_presence
from rbsf.tools.recipes.rbsf2 import read_config
from rbsf.tools.train_rbsf import main
from rbsf.tracker.anchor_free import AnchorFree, AnchorFreeConfig
from rbsf.tracker.rbsf2 import TorchNetwork
from rbsf.tracker.teachers.made_up import write_made_up
from rbsf.train.distributed import ALONE
from rbsf.weights import load_weights, save_weights

SMALL = shlex.split("--channels 8-16-32 --depths 1-1-1 --features 8 --head-depth 1 --pairs 4")
QUICK = [*SMALL, *shlex.split("--batch-size 2 --epochs 2 --warmup 0 --log-every 1 --workers 0")]
QUICK += ["--threads", "1", "--device", "cpu", "--precision", "float32"]

# The options of a network that SMALL asks for.
OPTIONS = {"channels": [8, 16, 32], "depths": [1, 1, 1], "stem": 4, "features": 8, "head_depth": 1}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The two files of a made-up teacher, as --teacher takes them."""
    folder = tmp_path_factory.mktemp("teacher")
    write_made_up(folder / "b.safetensors", folder / "h.safetensors")
    return f"{folder / 'b.safetensors'},{folder / 'h.safetensors'}"


def run(store: Path, pair: str, out: Path, *more: str) -> int:
    flags = ["--data", str(store), "--teacher", pair, "--out", str(out), *QUICK, *more]
    return main(["--model", "rbsf2", *flags])


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_weights(folder / "rbsf2.safetensors")[0].state_dict()


def test_weights_come_out_and_track(store: Path, pair: str, tmp_path: Path) -> None:
    assert run(store, pair, tmp_path / "run") == 0
    net, model, info = load_weights(tmp_path / "run" / "rbsf2.safetensors")
    assert (model, net.model_options["channels"]) == ("rbsf2", [8, 16, 32])
    assert info["config"]["pairs"] == 4
    tracker = AnchorFree(TorchNetwork(net))
    frame = np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8)
    tracker.init(frame, (40, 30, 20, 25))
    assert np.isfinite(tracker.update(frame).box).all()


def test_a_training_in_two_parts_is_the_same_to_the_bit(
    store: Path, pair: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(store, pair, tmp_path / "whole") == 0
    step, steps = rbsf2.Rectifier.step, []

    def stop_at_third(self: object, *arguments: object) -> object:
        steps.append(1)
        if len(steps) == 4:
            raise KeyboardInterrupt
        return step(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(rbsf2.Rectifier, "step", stop_at_third)
    with pytest.raises(KeyboardInterrupt):
        run(store, pair, tmp_path / "parts", "--save-minutes", "0")
    monkeypatch.undo()
    assert main(["--resume", "--out", str(tmp_path / "parts")]) == 0
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[key], parts[key]) for key in whole)


def test_presence_is_learned_and_all_else_stays(store: Path, pair: str, tmp_path: Path) -> None:
    """Of binary filters only the signs have to stay, as their scale has no effect."""
    first, second = tmp_path / "first", tmp_path / "second"
    assert run(store, pair, first) == 0
    file = str(first / "rbsf2.safetensors")
    flags = ["--data", str(store), "--presence-of", file, "--out", str(second)]
    flags += ["--val", str(store.parent / "videos" / "train")]
    quick = shlex.split("--pairs 8 --batch-size 4 --warmup 0 --log-every 1 --workers 0 --threads 1")
    assert main(["--model", "rbsf2", *flags, *quick]) == 0
    before, after = weights(first), weights(second)
    new = {name for name in after if name not in before}
    assert new
    assert all(name.startswith("head.presence.") for name in new)
    for name, value in before.items():
        if "sums.conv" in name:
            assert torch.equal(value.sign(), after[name].sign()), name
        else:
            assert torch.equal(value, after[name]), name
    net = load_weights(second / "rbsf2.safetensors")[0]
    untrained = with_presence(file).state_dict()
    assert any(not torch.equal(untrained[name], net.state_dict()[name]) for name in new)
    log = (second / "log.csv").read_text()
    assert "right" in log
    assert "val_presence" in log
    tracker = AnchorFree(TorchNetwork(net), AnchorFreeConfig(score_shift=0))
    frame = torch.randint(0, 256, (120, 160, 3), dtype=torch.uint8).numpy()
    tracker.init(frame, (40, 30, 20, 25))
    answer = tracker._answers(tracker.search_crops(frame))[0]
    assert tracker.update(frame).score in answer.target


def test_a_float_twin_guides_the_student(store: Path, pair: str, tmp_path: Path) -> None:
    """RBCN's losses compare the student with the twin's maps at every block.

    A student that starts from the twin has its filters, and C is the mean of their magnitudes.
    """
    assert run(store, pair, tmp_path / "twin", "--method", "float") == 0
    twin = str(tmp_path / "twin" / "rbsf2.safetensors")
    parts = shlex.split("--rectify --gan --bn-pass 0.5 --lambda-match 0.1 --method rbcn")
    assert run(store, pair, tmp_path / "own", *parts, "--twin", twin, "--from-twin") == 0
    header = (tmp_path / "own" / "log.csv").read_text().splitlines()[0]
    for part in ("features", "target", "sides", "discriminator", "adversarial", "match", "kernel"):
        assert part in header
    started = build("rbsf2", method="rbcn", **OPTIONS)
    real = load_weights(twin)[0]
    rbsf2.start_from_twin(started, real)
    for name, layer in binary_layers(started).items():
        filters = real.get_submodule(name).weight
        assert torch.equal(layer.weight, filters)
        assert torch.allclose(layer.scale().detach(), filters.abs().mean())


def test_another_network_is_no_twin(store: Path, pair: str, tmp_path: Path) -> None:
    assert run(store, pair, tmp_path / "first") == 0
    assert run(store, pair, tmp_path / "deep", "--method", "float", "--head-depth", "2") == 0
    student = build("rbsf2", **OPTIONS)
    for folder, message in (
        ("first", "holds rbsf2, no float twin of RB-SF 2"),
        ("deep", "its head_depth is 2, that of"),
    ):
        with pytest.raises(ValueError, match=message):
            rbsf2.load_twin(str(tmp_path / folder / "rbsf2.safetensors"), student)
    message = "gan or lambda_match ask for feature maps, but there is no teacher"
    with pytest.raises(ValueError, match=message):
        run(store, pair, tmp_path / "none", "--gan")
    message = "from_twin is true without a twin; give its weights by --twin"
    with pytest.raises(ValueError, match=message):
        run(store, pair, tmp_path / "no-twin", "--from-twin")


def test_presence_of_another_network_is_refused(store: Path, tmp_path: Path) -> None:
    other = str(tmp_path / "other.safetensors")
    save_weights(build("rbsf", width=0.1), "rbsf", Path(other))
    message = r"--presence-of .*other.safetensors: holds rbsf; give weights of RB-SF 2"
    with pytest.raises(ValueError, match=message):
        with_presence(other)


def test_presence_is_looked_at_between_two_sequences(store: Path, tmp_path: Path) -> None:
    one = next(path for path in (store.parent / "videos" / "train").iterdir() if path.is_dir())
    flags = ["--data", str(store), "--presence-of", str(tmp_path / "other.safetensors")]
    recipe = rbsf2.DistilledRecipe(read_config([*flags, "--val", str(one)]), ALONE)
    message = "holds one sequence; presence is looked at between two or more"
    with pytest.raises(ValueError, match=message):
        recipe.validation()


def test_mistakes_of_a_user_are_named(store: Path, pair: str, tmp_path: Path) -> None:
    data = ["--data", str(store)]
    for flags, message in (
        (data, r"--teacher is None; give two files, BACKBONE\.onnx,HEAD\.onnx"),
        (["--teacher", pair], "data is empty; give crop stores or folders by --data"),
        (
            [*data, "--teacher", pair, "--channels", "8-x"],
            "channels is '8-x'; give whole numbers of 1 or more, as 64-128-256",
        ),
        (
            [*data, "--teacher", pair, "--depths", "0-1-"],
            "depths is '0-1-'; give whole numbers of 0 or more, as 0-3-3",
        ),
        (
            [*data, "--teacher", pair, "--compile"],
            "compile is true; RB-SF 2 is trained uncompiled, leave it out",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            read_config(flags)
    files = tmp_path / "b48.safetensors", tmp_path / "h48.safetensors"
    write_made_up(*files, features=48)
    with pytest.raises(ValueError, match="has 48 features a place, but RB-SF 2 learns from 96"):
        run(store, ",".join(map(str, files)), tmp_path / "run")
    with pytest.raises(FileNotFoundError, match=r"no file .*none\.safetensors"):
        run(store, "none.safetensors,none.safetensors", tmp_path / "run")
    with pytest.raises(ValueError, match="the order is BACKBONE,HEAD"):
        run(store, ",".join(pair.split(",")[::-1]), tmp_path / "other")
