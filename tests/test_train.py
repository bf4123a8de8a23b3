"""Training end to end: synthetic videos to weights, stop and resume, failures."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from itertools import pairwise

import numpy as np
import pytest
import torch
import yaml
from conftest import NARROW, ROOT
from requirements import needs
from trainings import rows_of, run_processes

from rbsf.models import build
from rbsf.tools.train_rbsf import main
from rbsf.tracker.loading import load_network
from rbsf.train.checkpoint import load_checkpoint, save_checkpoint
from rbsf.train.log import History
from rbsf.train.loop import rate_factor
from rbsf.weights import load_weights, save_weights

SMALL = shlex.split("--pairs 4 --batch-size 2 --epochs 2 --warmup 0 --log-every 1 --workers 0")
QUICK = [*SMALL, *shlex.split("--threads 1 --val-sequences 0 --precision float32 --device cpu")]
QUICK += ["--width", str(NARROW)]
TWO_SHORT_VIDEOS = ["--val-sequences", "2", "--val-frames", "3"]


def run_main(store, teacher, out, *more):
    return main(["--data", str(store), "--teacher", str(teacher), "--out", str(out), *QUICK, *more])


@pytest.fixture(scope="module")
def one_epoch(store, teacher, tmp_path_factory):
    """The folder of a training of one epoch."""
    out = tmp_path_factory.mktemp("trained") / "run"
    assert run_main(store, teacher, out, "--epochs", "1") == 0
    return out


@pytest.fixture
def run(one_epoch, tmp_path):
    """A copy of that training, to go on with and to damage."""
    return shutil.copytree(one_epoch, tmp_path / "run")


def resume(run, *flags):
    return main(["--resume", "--out", str(run), *flags])


def tensors(path):
    return load_weights(path)[0].state_dict()


def config_of(run):
    return load_weights(run / "rbsf.safetensors")[2]["config"]


def first_losses(folder):
    return [float(row["logistic"]) for row in rows_of(folder / "log.csv")][:2]


def test_a_correlation_of_signs_is_trained(one_epoch, store, teacher, tmp_path):
    assert run_main(store, teacher, tmp_path / "bits", "--epochs", "1", "--correlation-bits") == 0
    assert first_losses(one_epoch)[0] != first_losses(tmp_path / "bits")[0]
    assert config_of(tmp_path / "bits")["correlation_bits"] is True


def test_a_narrow_network_starts_from_a_part_of_a_wide_teacher(
    store, wide_teacher, tmp_path, capsys
):
    run = tmp_path / "run"
    assert run_main(store, wide_teacher, run, "--epochs", "1", "--width", "0.5") == 0
    said = capsys.readouterr().out
    assert "teacher of another width: maps are compared at layers.4.norm, 1 of 4 points" in said
    narrow = run / "rbsf.safetensors"
    net, _, _ = load_weights(narrow)
    first = load_weights(wide_teacher)[0].layers[0].conv.weight
    assert torch.equal(net.layers[0].conv.weight, first[[*range(32), *range(48, 80)]])
    crops = np.random.default_rng(0).integers(0, 256, (1, 127, 127, 3), dtype=np.uint8)
    packed = load_network(run / "rbsf-packed.safetensors", threads=1)(crops)
    assert packed.shape == (1, 256, 6, 6)
    real = load_network(narrow, "cpu", engine="packed", threads=1)(crops)
    np.testing.assert_array_equal(packed, real)


def test_from_scratch_nothing_is_taken_over_from_the_teacher(store, teacher, tmp_path):
    """The network's maps are still compared with the teacher's."""
    out = tmp_path / "run"
    message = "lr_real is 0: from scratch the real layers would stay random"
    with pytest.raises(ValueError, match=message):
        run_main(store, teacher, out, "--scratch")
    flags = ["--epochs", "1", "--scratch", "--lr-real", "1e-3", "--seed", "1"]
    assert run_main(store, teacher, out, *flags) == 0
    assert float(rows_of(out / "log.csv")[0]["match"]) > 0
    own = tensors(out / "rbsf.safetensors")["layers.0.conv.weight"].flatten()
    theirs = tensors(teacher)["layers.0.conv.weight"].flatten()
    assert abs(float(torch.corrcoef(torch.stack([own, theirs]))[0, 1])) < 0.1


def assert_same(first, second):
    first, second = tensors(first), tensors(second)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[k], second[k]) for k in first)


def test_a_whole_training_leaves_everything_beside_its_weights(
    store, wide_teacher, tmp_path, capsys
):
    run = tmp_path / "run"
    assert run_main(store, wide_teacher, run, "--width", "1") == 0
    files = {p.name for p in run.iterdir()}
    assert {"config.yaml", "environment.json", "checkpoint.pt"} <= files
    assert {"log.csv", "losses.png", "rbsf.safetensors", "rbsf-packed.safetensors"} <= files
    rows = rows_of(run / "log.csv")
    assert [row["step"] for row in rows] == ["1", "2", "3", "4"]
    assert {"loss", "logistic", "response", "kernel"} <= rows[0].keys()
    assert {"adversarial", "discriminator", "match"} <= rows[0].keys()
    _, model, info = load_weights(run / "rbsf.safetensors")
    assert model == "rbsf"
    assert info["config"]["seed"] == 0
    assert info["torch"] == torch.__version__
    assert "4 pairs an epoch from 3 videos" in capsys.readouterr().out


def test_a_resume_in_the_middle_of_an_epoch_is_exact_to_the_bit(
    store, teacher, tmp_path, monkeypatch
):
    from rbsf.train import loop

    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    flags = ["--bn-pass", "0.5", "--norm-epochs", "1"]
    run_main(store, teacher, straight, *flags)
    original, count = loop.Rectifier.step, iter(range(100))

    def step(self, *args):
        if next(count) == 2:  # the first batch of the second epoch
            signal.raise_signal(signal.SIGTERM)
        return original(self, *args)

    monkeypatch.setattr(loop.Rectifier, "step", step)
    assert run_main(store, teacher, stopped, *flags) == 128 + signal.SIGTERM
    monkeypatch.undo()
    state = load_checkpoint(stopped / "checkpoint.pt")
    assert (state["epoch"], state["index"]) == (1, 1)
    assert resume(stopped) == 0
    assert_same(straight / "rbsf.safetensors", stopped / "rbsf.safetensors")
    for run in (straight, stopped):
        assert (run / "log.csv").read_text().count("\n") == 7  # a head, 2 x (2 + 1) steps
    assert len(json.loads((stopped / "environment.json").read_text())) == 2


def test_without_teacher_the_float_network_is_trained_first(store, tmp_path, capsys):
    run = tmp_path / "run"
    flags = [*QUICK, "--epochs", "1", "--pairs", "2", "--own-teacher"]
    assert main(["--data", str(store), "--out", str(run), *flags]) == 0
    assert "the float siamfc is trained first" in capsys.readouterr().out
    assert load_weights(run / "teacher" / "siamfc.safetensors")[1] == "siamfc"
    assert load_weights(run / "rbsf.safetensors")[1] == "rbsf"


def test_an_xnor_network_is_validated_by_tracking(store, teacher, tmp_path, capsys):
    run = tmp_path / "run"
    flags = ["--model", "xnor", "--epochs", "1", "--val", str(store.parent / "videos" / "train")]
    assert run_main(store, teacher, run, *flags, *TWO_SHORT_VIDEOS) == 0
    held_out = "without synthetic_000005, synthetic_000006, held out for validation"
    said = capsys.readouterr()
    assert f"from 1 videos and 0 stills, {held_out}" in said.out
    still = r"a box that never moves has val_auc 0\.\d+, .*, val_logistic 0\.693, val_hit 0\.\d+"
    assert re.search(f"to compare with: {still}", said.out)
    assert "to compare with: the shipped RB-SF has val_auc 0." in said.out
    beside = r"val_auc 0\.\d+ \(a box that never moves 0\.\d+, the shipped RB-SF 0\.\d+\)"
    assert re.search(
        rf"epoch 1: {beside}, .*val_logistic \S+ \(a box that never", said.out + said.err
    )
    last = rows_of(run / "log.csv")[-1]
    assert 0 <= float(last["val_auc"]) <= 1
    assert 0 <= float(last["val_hit"]) <= 1
    assert float(last["val_logistic"]) > 0
    assert load_weights(run / "xnor.safetensors")[1] == "xnor"


def test_videos_that_share_a_name_with_those_of_val_are_trained_on(
    store, teacher, tmp_path, capsys
):
    """Of these other videos the store holds no crops, so nothing is said of hits."""
    from rbsf.datasets.synthetic.videos import write_got10k

    other = tmp_path / "other"
    write_got10k(other, count=3, seed=50, frames=6, size=(160, 120))
    for number in range(3):
        (other / f"synthetic_{50 + number:06d}").rename(other / f"synthetic_{5 + number:06d}")
    (other / "list.txt").unlink()
    flags = ["--epochs", "1", "--val", str(other), *TWO_SHORT_VIDEOS]
    assert run_main(store, teacher, tmp_path / "run", *flags) == 0
    assert "from 3 videos and 0 stills; on" in capsys.readouterr().out
    assert not rows_of(tmp_path / "run" / "log.csv")[-1].get("val_hit")


def test_default_data_is_synthetic_and_says_so(tmp_path, monkeypatch, teacher, capsys):
    from rbsf.datasets.pairs import training_data

    monkeypatch.setattr(training_data, "SYNTHETIC_VIDEOS", 2)
    monkeypatch.setattr(training_data, "SYNTHETIC_FRAMES", 3)
    out = tmp_path / "runs" / "x"
    assert main(["--teacher", str(teacher), "--out", str(out), *QUICK, "--epochs", "1"]) == 0
    first, second, *others = capsys.readouterr().out.splitlines()
    assert "synthetic" in first
    assert "GOT-10k" in second
    assert any(re.fullmatch(r"this takes about \d+ \w+ on this machine", line) for line in others)
    assert [path.name for path in out.parent.iterdir()] == ["x"]


def test_ctrl_c_at_the_terminal_ends_a_training_with_loader_processes(store, teacher, tmp_path):
    """Ctrl-C reaches the whole process group, and ends it with one line and no traceback."""
    run = tmp_path / "run"
    program = [sys.executable, str(ROOT / "tools" / "train_rbsf.py")]
    program += ["--data", str(store), "--teacher", str(teacher), "--out", str(run)]
    training = subprocess.Popen(
        [*program, *QUICK, "--epochs", "50", "--workers", "1"],
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        text=True,
        start_new_session=True,
    )
    begun = time.monotonic()
    while not (run / "checkpoint.pt").exists() and time.monotonic() - begun < 90:
        time.sleep(0.05)
    os.killpg(training.pid, signal.SIGINT)
    _, errors = training.communicate(timeout=90)
    assert training.returncode == 130, errors
    assert "Traceback" not in errors
    assert "repeat the command, a single training with --resume" in errors
    assert load_checkpoint(run / "checkpoint.pt")["epoch"] < 50


def test_finished_weights_without_a_checkpoint_are_not_trained_over(run):
    (run / "checkpoint.pt").unlink()
    weights = (run / "rbsf.safetensors").read_bytes()
    with pytest.raises(ValueError, match=r"has weights, but no checkpoint\.pt to resume from"):
        resume(run, "--epochs", "3")
    assert (run / "rbsf.safetensors").read_bytes() == weights


def test_what_is_not_finite_stops_and_leaves_the_last_good_checkpoint(run):
    good = (run / "checkpoint.pt").read_bytes()
    message = r"not finite at step .*last good checkpoint is .*checkpoint\.pt"
    with pytest.raises(ValueError, match=message):
        resume(run, "--epochs", "3", "--lr-norm", "1e38", "--lr-binary", "1e38")
    assert (run / "checkpoint.pt").read_bytes() == good


def test_weights_that_are_not_finite_are_never_saved(store, teacher, tmp_path, monkeypatch):
    """The loss is that of the weights before a step; the step itself can break them."""
    from rbsf.train import loop

    original = loop.Rectifier.step

    def step(self, *args):
        logged = original(self, *args)
        next(self.student.parameters()).data.fill_(float("inf"))
        return logged

    monkeypatch.setattr(loop.Rectifier, "step", step)
    flags = ["--pairs", "2", "--epochs", "1", "--bn-pass", "0"]
    with pytest.raises(ValueError, match="not finite"):
        run_main(store, teacher, tmp_path / "run", *flags)
    assert not (tmp_path / "run" / "checkpoint.pt").exists()


@pytest.mark.parametrize(
    ("flag", "value"), [("--seed", "5"), ("--batch-size", "1"), ("--pairs", "8")]
)
def test_resume_refuses_another_order_and_changes_nothing(flag, value, run):
    before = {p.name: p.read_bytes() for p in run.iterdir() if p.name == "environment.json"}
    with pytest.raises(ValueError, match=f"trained with {flag[2:].replace('-', '_')} "):
        resume(run, flag, value)
    assert before == {p.name: p.read_bytes() for p in run.iterdir() if p.name in before}


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("--data", "other.db", r"data \S+/pairs\.db, not other\.db; leave --data out, or"),
        ("--teacher", "b.npz", r"teacher \S+/siamfc\.safetensors, not b\.npz; leave --teacher"),
        ("--val", "OTB", r"val None, not OTB; leave --val out"),
        ("--val-sequences", "4", r"val_sequences 0, not 4; resume with 0"),
    ],
)
def test_a_resume_refuses_other_data_and_another_teacher(flag, value, message, run):
    before = (run / "config.yaml").read_bytes()
    with pytest.raises(ValueError, match=rf"config\.yaml: trained with {message}"):
        resume(run, flag, value)
    assert (run / "config.yaml").read_bytes() == before


def test_a_resume_takes_data_that_moved(run, store, tmp_path):
    moved = shutil.copy(store, tmp_path)
    with pytest.warns(UserWarning, match=rf"data was {store}; {moved} is assumed identical"):
        assert resume(run, "--epochs", "2", "--data", moved) == 0
    assert yaml.safe_load((run / "config.yaml").read_text())["data"] == [moved]


def test_a_training_older_than_a_setting_is_resumed(run):
    """Such a training goes on with the setting's default, and with nothing else."""
    config = run / "config.yaml"
    settings = yaml.safe_load(config.read_text())
    assert settings.pop("paste_share") == 0.0
    assert settings.pop("gray") == 0.15
    config.write_text(yaml.safe_dump(settings))
    with pytest.raises(ValueError, match=r"trained with paste_share 0.0, not 0.5; resume with 0.0"):
        resume(run, "--paste-share", "0.5")
    assert resume(run, "--epochs", "2", "--paste-share", "0") == 0


def test_settings_of_pairs_reach_the_pairs(one_epoch, store, teacher, tmp_path):
    mixed = tmp_path / "mixed"
    run_main(store, teacher, mixed, "--epochs", "1", "--negative-share", "1", "--gray", "1")
    assert first_losses(one_epoch) != first_losses(mixed)
    assert config_of(mixed)["negative_share"] == 1.0


def test_an_earlier_training_is_not_overwritten(run, store, teacher):
    with pytest.raises(ValueError, match="holds a training already; add --resume"):
        run_main(store, teacher, run, "--epochs", "1")
    (run / "checkpoint.pt").unlink()
    with pytest.raises(
        ValueError, match=r"\.safetensors would be overwritten; choose another --out"
    ):
        run_main(store, teacher, run, "--epochs", "1")


def test_half_a_checkpoint_and_anothers_checkpoint_are_refused(run):
    checkpoint = run / "checkpoint.pt"
    whole = checkpoint.read_bytes()
    checkpoint.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="not a whole checkpoint"):
        resume(run)
    checkpoint.write_bytes(whole)
    config = run / "config.yaml"
    with pytest.raises(ValueError, match="trained with model rbsf, not xnor; resume with rbsf"):
        resume(run, "--model", "xnor")
    assert yaml.safe_load(config.read_text())["model"] == "rbsf"
    text = config.read_text()
    config.write_text(text.replace("model: rbsf", "model: xnor"))  # as another training's
    with pytest.raises(ValueError, match="does not fit this network and configuration"):
        resume(run)
    config.write_text(text)
    state = load_checkpoint(checkpoint)
    del state["random"]  # which older checkpoints lack
    save_checkpoint(checkpoint, state)
    with pytest.raises(
        ValueError, match=r"does not fit this network and configuration \('random'\)"
    ):
        resume(run)
    save_checkpoint(checkpoint, {"version": 99})
    with pytest.raises(ValueError, match="not a checkpoint of version 1"):
        resume(run)


@pytest.mark.parametrize("name", ["checkpoint.pt", "teacher/checkpoint.pt", "log.csv"])
def test_a_damaged_training_is_refused_before_data_is_read(run, name, monkeypatch):
    from rbsf.tools.recipes.siamese import SiameseRecipe

    settings = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump(settings | {"teacher": None}))
    (run / "teacher").mkdir()
    (run / name).write_bytes(b"step\n1,2" if name == "log.csv" else b"")
    monkeypatch.setattr(SiameseRecipe, "open", lambda _: pytest.fail("data was read"))
    with pytest.raises(ValueError, match=re.escape(str(run / name))):
        resume(run)


DAMAGED = {  # a file of a training's folder -> what it holds, and what is said
    "config, empty": ("config.yaml", "", r"config\.yaml is empty or cut short"),
    "config, cut": (
        "config.yaml",
        "# 60 settings\nepochs: 1\nseed: 0\n",
        r"config\.yaml is empty or cut short",
    ),
    "config, foreign": ("config.yaml", "epochs: 1\nseed: 0\nx: 1", r"unknown setting 'x'"),
    "config, a list": ("config.yaml", "- 1", r"config\.yaml: expected settings as"),
    "config, out of range": ("config.yaml", "epochs: 0\nseed: 0", r"config\.yaml: epochs is 0"),
    "log, another column": ("log.csv", "step,note\n1,abc\n", r"log\.csv line 2: no row of a"),
    "log, no step": ("log.csv", "epoch\n1\n", r"log\.csv line 2: no row of a"),
    "log, a long row": ("log.csv", "step\n1,2\n", r"log\.csv line 2: no row of a"),
    "log, not text": ("log.csv", "\udcff", r"log\.csv line 1: not UTF-8 text"),
    "environment, a dict": ("environment.json", "{}", r"environment\.json: no JSON list of a"),
    "environment, cut": ("environment.json", "[{", r"environment\.json: no JSON list of a"),
    "environment, deep": ("environment.json", "[" * 100_000, r"environment\.json: no JSON list"),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_folder_is_not_resumed(run, kind):
    name, content, message = DAMAGED[kind]
    (run / name).write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=message) as error:
        main(["--resume", "--out", str(run), "--epochs", "2"])
    assert str(run / name) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "changes",
    [
        *({name: None} for name in ("order", "training", "epoch", "index", "random")),
        {"epoch": -1},
        {"epoch": "1"},
        {"order": []},
        {"training": {}},
        {"training": {"modules": {}, "optimizers": {}}},
        {"training": {"modules": [], "optimizers": {}}},
        {"random": torch.zeros(3)},
    ],
)
def test_checkpoints_that_lack_parts_are_not_resumed(run, changes):
    checkpoint = run / "checkpoint.pt"
    state = load_checkpoint(checkpoint) | changes
    save_checkpoint(checkpoint, {key: value for key, value in state.items() if value is not None})
    with pytest.raises(ValueError, match=r"checkpoint\.pt: does not fit this network and") as error:
        main(["--resume", "--out", str(run), "--epochs", "2"])
    assert "\n" not in str(error.value)


def test_the_next_training_removes_what_a_dead_one_left(run):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    left = [run / f".checkpoint.{ended.pid}.part.pt", run / ".mine.pt"]
    for path in left:
        path.write_bytes(b"x")
    assert main(["--resume", "--out", str(run)]) == 0
    assert [path.is_file() for path in left] == [False, True]


def test_a_binary_teacher_is_refused(store, tmp_path):
    save_weights(build("rbsf"), "rbsf", tmp_path / "b.safetensors")
    with pytest.raises(ValueError, match="must be a float network"):
        run_main(store, tmp_path / "b.safetensors", tmp_path / "run")


def test_a_full_disk_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, {"epoch": 1})

    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match=r"cannot write .*checkpoint\.pt: No space left on device"):
        save_checkpoint(path, {"epoch": 2})
    assert load_checkpoint(path)["epoch"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_an_output_path_that_is_a_file_is_refused(store, teacher, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot write"):
        run_main(store, teacher, tmp_path / "file" / "run")


@pytest.mark.skipif(
    not torch.distributed.is_available(),
    reason=needs("distributed", "PyTorch was built without it"),
)
def test_two_processes_train_one_network(store, teacher, tmp_path):
    flags = ["--data", str(store), "--teacher", str(teacher), "--out", str(tmp_path / "two")]
    flags += [*QUICK, "--epochs", "1", "--batch-size", "1"]
    done = run_processes(2, ROOT / "tools" / "train_rbsf.py", *flags)
    assert "on 2 x cpu" in done.stdout
    assert load_weights(tmp_path / "two" / "rbsf.safetensors")[1] == "rbsf"


def test_rates_rise_then_follow_a_cosine():
    factors = [rate_factor(step, 100, 9) for step in range(100)]
    assert factors[:9] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9])
    assert factors[9] == 1
    assert factors[-1] < 0.02
    assert all(a >= b for a, b in pairwise(factors[9:]))


def test_history_drops_what_came_after_the_checkpoint(tmp_path):
    history = History(tmp_path)
    for step in (1, 2, 3):
        history.add(step, loss=float(step))
    history.write()
    again = History(tmp_path, resume_step=2)
    assert [row["step"] for row in again.rows] == [1, 2]


def test_the_benchmark_of_training_speed_prints_a_ratio(store, teacher, tmp_path):
    program = [sys.executable, str(ROOT / "benchmarks" / "training_speed.py"), "--data", str(store)]
    flags = ["--teacher", str(teacher), "--out", str(tmp_path / "run"), *QUICK]
    done = subprocess.run([*program, *flags], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert re.search(r"ratio +\d+\.\d", done.stdout)


def test_a_missing_teacher_is_told_before_data_are_made(tmp_path):
    with pytest.raises(FileNotFoundError, match="no weights file"):
        main(["--teacher", str(tmp_path / "none.pth"), "--out", str(tmp_path / "run")])
    assert [path.name for path in (tmp_path / "run").iterdir() if path.name[0] != "."] == [
        "config.yaml"
    ]
