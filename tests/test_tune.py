"""The search of the tracker's constants: scores, refusals, going on, interruption."""

from __future__ import annotations

import dataclasses
import json
import shutil
import signal
import subprocess
import sys
import time
from multiprocessing import active_children
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import NARROW, ROOT
from optuna.distributions import FloatDistribution

from rbsf.datasets.synthetic.videos import write_got10k
from rbsf.datasets.video.sequences import Sequence
from rbsf.eval.runner import Run
from rbsf.models import build
from rbsf.tools import constants_search
from rbsf.tools.tune import main
from rbsf.tracker.anchor_free import AnchorFreeConfig
from rbsf.tracker.siamfc import TrackerConfig
from rbsf.train.config import read_yaml
from rbsf.weights import save_weights

DEFAULTS = {
    "scale_step": 1.0375,
    "scale_penalty": 0.9745,
    "window_influence": 0.176,
    "scale_rate": 0.59,
}


def colours(crops):
    """A backbone that gives the mean colour of blocks of 8 x 8 pixels.

    It makes float32 `[N, 3, (S - 79) / 8, (S - 79) / 8]` of uint8 `[N, S, S, 3]`.
    """
    cut = crops[:, 39:-40, 39:-40].astype(np.float32) - 128
    n, side = len(cut), cut.shape[1] // 8
    return cut.reshape(n, side, 8, side, 8, 3).mean((2, 4)).transpose(0, 3, 1, 2)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    root = tmp_path_factory.mktemp("videos")
    write_got10k(root, count=3, frames=5, size=(160, 120))
    return root


@pytest.fixture
def tune(videos, tmp_path, monkeypatch):
    """The program on made videos and a cheap backbone; a later flag wins over an earlier one."""
    monkeypatch.setattr("rbsf.tracker.loading.load_network", lambda *_: colours)
    monkeypatch.setattr("rbsf.tools.tune.plot", lambda *args: args[-1].touch())
    (tmp_path / "net.safetensors").write_bytes(b"a network")
    weights, out = tmp_path / "net.safetensors", tmp_path / "out"
    fixed = ["--root", videos, "--weights", weights, "--out", out, "--trials", "3"]
    return lambda *more: main([str(word) for word in (*fixed, *more)])


def records(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "study.log").read_text().splitlines()]


def score_by(monkeypatch, function) -> None:
    """Let `function(constants, sequence)` score a sequence in place of the tracker."""

    def scores(backbone, sequences, constants, show, kind):
        return (function(constants, sequence) for sequence in sequences)

    monkeypatch.setattr(constants_search, "sequence_scores", scores)


def test_first_trial_is_the_defaults_and_the_best_is_written(tune, tmp_path, capsys):
    assert tune() == 0
    shown = capsys.readouterr().out.splitlines()
    default, best = (float(line.split()[3]) for line in shown[:2])
    assert 0 < default <= best <= 1
    weights, file = tmp_path / "net.safetensors", tmp_path / "out/tracker.yaml"
    expected = f"use it: rbsf benchmark ... --tracker {weights} --constants {file}"
    assert shown[-1] == expected
    found = read_yaml(TrackerConfig, tmp_path / "out/tracker.yaml")
    assert list(found) == list(DEFAULTS)
    TrackerConfig(**found)
    text = (tmp_path / "out/tracker.yaml").read_text()
    assert text.startswith(
        f"# average overlap {best:.4f}, of the defaults {default:.4f}; best of 3 trials\n"
    )
    expected = "on 3 sequences, 15 frames: synthetic_000000, synthetic_000001, synthetic_000002\n"
    assert expected in text
    assert "# weights net.safetensors, SHA-256 2f782beca6c497e0..., float32\n" in text
    assert "# python tools/tune.py --root" in text


def test_score_leaves_out_the_first_frame_and_those_without_the_target(monkeypatch):
    gone = [np.nan] * 4
    # The two frames that count overlap by 1/3 and 1.
    truth = np.array([gone, [0, 0, 10, 10], [5, 0, 10, 10], gone, [0, 0, 10, 10]])
    run = Run(np.tile([0.0, 0, 10, 10], (5, 1)), np.zeros(5))
    monkeypatch.setattr(constants_search, "track_sequence", lambda *_: run)
    sequence = Sequence("made", ("",) * 5, truth)
    expected = [pytest.approx(2 / 3)]
    found = constants_search.sequence_scores(colours, [sequence], DEFAULTS, False, TrackerConfig)
    assert list(found) == expected


def test_constants_are_searched_from_the_defaults(tune, tmp_path, monkeypatch, capsys):
    seen = []

    def score(constants, _):
        seen.append(constants)
        return 1 - abs(constants["scale_rate"] - 0.8)

    score_by(monkeypatch, score)
    tune("--trials", "15", "--sequences", "synthetic_000001")
    assert seen[0] == DEFAULTS
    assert len(seen) == 15
    best = min(seen, key=lambda constants: abs(constants["scale_rate"] - 0.8))
    assert read_yaml(TrackerConfig, tmp_path / "out/tracker.yaml") == best
    assert abs(best["scale_rate"] - 0.8) < 0.1
    shown = capsys.readouterr().out
    assert shown.startswith("defaults: average overlap 0.7900\nbest:     average overlap 0.")
    assert f"  scale_rate: {best['scale_rate']}\n" in shown
    ranges = constants_search.RANGES[TrackerConfig]
    limits = {name: constants_search.limits_of(ranges[name]) for name in DEFAULTS}
    for name, (low, high) in limits.items():
        assert all(low <= constants[name] <= high for constants in seen)


def test_defaults_are_kept_where_nothing_is_better(tune, tmp_path, monkeypatch, capsys):
    score_by(monkeypatch, lambda constants, _: float(constants == DEFAULTS))
    tune()
    assert "best:     average overlap 1.0000 (the defaults)\n" in capsys.readouterr().out
    assert read_yaml(TrackerConfig, tmp_path / "out/tracker.yaml") == DEFAULTS


def test_bad_constants_are_given_up_on_the_hardest_sequences(tune, monkeypatch):
    ease = {"synthetic_000000": 0.9, "synthetic_000001": 0.3, "synthetic_000002": 0.6}
    done: dict[float, list[str]] = {}

    def score(constants, sequence):
        done.setdefault(constants["scale_rate"], []).append(sequence.name[-1])
        return ease[sequence.name] * constants["scale_rate"]

    score_by(monkeypatch, score)
    tune("--trials", "20")
    orders = {"".join(names) for rate, names in done.items() if rate != 0.59}
    assert orders == {"12", "120"}  # given up after two of three, or not at all
    assert "".join(done[max(done)]) == "120"
    assert "".join(done[0.59]) == "012"


def test_search_goes_on_where_it_stopped(tune, tmp_path, monkeypatch):
    seen = []

    def score(constants, _):
        seen.append(constants["scale_rate"])
        return constants["scale_rate"]

    score_by(monkeypatch, score)
    one = ("--sequences", "synthetic_000001", "--trials")
    tune(*one, "3")
    assert len(seen) == 3
    tune(*one, "5")
    assert len(set(seen)) == len(seen) == 5  # nothing is tried twice
    tune(*one, "5")
    tune(*one, "2")
    assert len(seen) == 5
    assert "best of 5 trials" in (tmp_path / "out/tracker.yaml").read_text()


def test_a_trial_of_a_killed_process_does_not_count(tune, tmp_path):
    tune("--trials", "1")
    log = tmp_path / "out/study.log"
    running = next(r for r in records(tmp_path / "out") if r["op_code"] == 4)
    lost = {
        "op_code": 4,
        "worker_id": "killed",
        "study_id": 0,
        "datetime_start": running["datetime_start"],
    }
    log.write_text(log.read_text() + json.dumps(lost) + "\n")
    tune("--trials", "3")
    assert [r.get("param_name") for r in records(tmp_path / "out")].count("scale_rate") == 2
    assert "best of 3 trials" in (tmp_path / "out/tracker.yaml").read_text()


@pytest.mark.parametrize(
    ("flags", "what"),
    [
        (["--precision", "bfloat16"], "precision"),
        (["--engine", "torch"], "engine"),
        (["--sequences", "synthetic_000001"], "sequences, frames, boxes"),
        (["--frames", "4"], "frames, boxes"),
        (["--weights", ROOT / "weights/rbsf.safetensors"], "weights"),
    ],
)
def test_study_of_something_else_is_refused(tune, flags, what):
    tune("--trials", "1")
    message = rf"study\.log was made with other {what}; give another --out"
    with pytest.raises(ValueError, match=message):
        tune(*flags)


@pytest.mark.parametrize("kind", [TrackerConfig, AnchorFreeConfig])
def test_all_constants_of_both_trackers_are_known(kind):
    fields = {field.name: field.default for field in dataclasses.fields(kind)}
    ranges = constants_search.RANGES[kind]
    assert set(ranges) == set(fields)
    assert set(constants_search.SEARCHED[kind]) <= set(fields)
    for name, each in ranges.items():
        assert each._contains(each.to_internal_repr(fields[name])), name
    ends = [
        {name: constants_search.limits_of(each)[i] for name, each in ranges.items()}
        for i in (0, -1)
    ]
    for constants in ends:
        kind(**constants)  # raises where a range holds what the tracker refuses


def test_chosen_constants_are_searched(tune, tmp_path, monkeypatch, capsys):
    seen = []

    def score(constants, _):
        seen.append(constants)
        return 0.5

    score_by(monkeypatch, score)
    tune("--search", "scales", "redetect", "--search", "box_share")
    assert seen[0] == {"scales": 3, "redetect": "frame", "box_share": 0.6}
    assert set(read_yaml(TrackerConfig, tmp_path / "out/tracker.yaml")) == set(seen[0])
    caution = "3 videos with 15 frames in all are few"
    assert f"warning: {caution}" in capsys.readouterr().err
    assert f"# {caution}" in (tmp_path / "out/tracker.yaml").read_text()
    with pytest.raises(ValueError, match=r"--search size_rate: net\.safetensors has no such const"):
        tune("--search", "size_rate")


def test_study_of_other_ranges_is_refused(tune, monkeypatch):
    tune("--trials", "1")
    ranges = constants_search.RANGES[TrackerConfig]
    monkeypatch.setitem(ranges, "scale_rate", FloatDistribution(0.3, 0.9))
    with pytest.raises(ValueError, match="other ranges"):
        tune()


def test_sequence_without_a_frame_to_score_is_left_out(tune, videos, tmp_path, capsys):
    shutil.copytree(videos, tmp_path / "val")
    (tmp_path / "val/synthetic_000001/groundtruth.txt").write_text(
        "9,9,20,20\n" + "nan,nan,nan,nan\n" * 4
    )
    tune("--root", tmp_path / "val", "--trials", "1")
    assert "left out, without two frames with a box: synthetic_000001\n" in capsys.readouterr().err
    assert "on 2 sequences, 10 frames" in (tmp_path / "out/tracker.yaml").read_text()


def test_broken_sequences_are_left_out_if_asked(tune, videos, tmp_path, capsys):
    shutil.copytree(videos, tmp_path / "val")
    (tmp_path / "val/synthetic_000001/groundtruth.txt").write_text("what\n")
    flags = ("--root", tmp_path / "val", "--trials", "1")
    with pytest.raises(ValueError, match=r"sequences: 1: .*synthetic_000001.*--skip-broken"):
        tune(*flags)
    assert tune(*flags, "--skip-broken") == 0
    assert "warning: left out: " in capsys.readouterr().err
    assert "on 2 sequences, 10 frames" in (tmp_path / "out/tracker.yaml").read_text()


@pytest.mark.parametrize(
    ("folder", "part"),
    [
        ("OTB100", "OTB100"),
        ("otb/videos", "otb"),
        ("UAV123_10fps", "UAV123_10fps"),
        ("uav20l", "uav20l"),
        ("GOT-10k/test", "test"),
        ("GOT-10k_Test", "GOT-10k_Test"),
    ],
)
def test_folder_named_as_test_data_is_refused(tune, videos, tmp_path, folder, part):
    shutil.copytree(videos, tmp_path / folder)
    message = f"is test data: its path .* has '{part}' in it.*worthless; give validation"
    with pytest.raises(ValueError, match=message):
        tune("--root", tmp_path / folder)
    (tmp_path / "link").symlink_to(tmp_path / folder)
    with pytest.raises(ValueError, match="is test data"):
        tune("--root", tmp_path / "link")


@pytest.mark.parametrize("folder", ["GOT-10k/val", "otbert", "test"])
def test_folder_of_validation_data_is_taken(tune, videos, tmp_path, folder):
    shutil.copytree(videos, tmp_path / folder)
    assert tune("--root", tmp_path / folder, "--trials", "1") == 0


@pytest.mark.parametrize(
    "name",
    [
        "Basketball",
        "basketball",
        "Jogging",
        "Skating2-1",
        "Human4-2",
        "boat5",
        "car1_s",
        "GOT-10k_Test_000181",
    ],
)
def test_sequence_named_as_test_data_is_refused(tune, videos, tmp_path, name):
    shutil.copytree(videos / "synthetic_000000", tmp_path / "mixed/synthetic_000000")
    shutil.copytree(videos / "synthetic_000001", tmp_path / "mixed" / name)
    message = r"is test data: it holds .*, which has the name of a test sequence"
    with pytest.raises(ValueError, match=message):
        tune("--root", tmp_path / "mixed", "--sequences", "synthetic_000000")


def test_interrupted_search_keeps_what_is_finished(tune, tmp_path, monkeypatch, capsys):
    seen = []

    def score(constants, _):
        seen.append(constants)
        return 0.5 if len(seen) != 3 else signal.raise_signal(signal.SIGINT)

    score_by(monkeypatch, score)
    flags = ("--sequences", "synthetic_000001", "--trials", "4")
    assert tune(*flags) == 130
    assert capsys.readouterr().err.endswith(
        "interrupted: 2 of 4 trials are kept; the same command goes on\n"
    )
    assert read_yaml(TrackerConfig, tmp_path / "out/tracker.yaml") == DEFAULTS
    assert tune(*flags) == 0
    assert len(seen) == 5


def test_search_interrupted_before_its_first_trial_keeps_nothing(
    tune, tmp_path, monkeypatch, capsys
):
    score_by(monkeypatch, lambda *_: signal.raise_signal(signal.SIGINT))
    assert tune() == 130
    assert "interrupted: 0 of 3 trials are kept" in capsys.readouterr().err
    assert not (tmp_path / "out/tracker.yaml").exists()


@pytest.mark.parametrize(
    ("flags", "fault"),
    [
        (["--weights", "none.safetensors"], "no weights file none.safetensors"),
        (["--root", "nowhere"], "dataset nowhere does not exist"),
        (["--root", "empty"], "no sequences in empty"),
        (
            ["--frames", "1"],
            "no sequence to tune on: none of 3 has two frames with a box among its first 1; give",
        ),
        (["--sequences", "nobody"], "has no sequence 'nobody'"),
        (["--out", "file"], r"cannot write file/study\.log"),
    ],
)
def test_bad_input_is_named(tune, tmp_path, monkeypatch, flags, fault):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises((ValueError, FileNotFoundError), match=fault) as caught:
        tune(*flags)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ('{"op_code":0', "its last line was cut off; delete that line, or give another --out"),
        ("hello\n{}\n", "is damaged or no study"),
        ("[]\n", "is damaged or no study"),
        ("{}\n", "is damaged or no study"),
    ],
)
def test_damaged_study_is_named(tune, tmp_path, content, fault):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/study.log").write_text(content)
    with pytest.raises(ValueError, match=rf"study\.log.*{fault}"):
        tune()
    assert (tmp_path / "out/study.log").read_text() == content


def test_missing_optuna_says_what_to_type(tune, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ValueError, match=r'pip install -e "\.\[tune\]"'):
        tune()


def test_worker_that_dies_costs_no_trial(tune, tmp_path, monkeypatch, capfd):
    def score(*_):
        deadline = time.monotonic() + 60
        # The worker finds no weights in this file, and ends.
        while active_children() and time.monotonic() < deadline:
            time.sleep(0.1)
        return 0.5

    score_by(monkeypatch, score)
    assert tune("--workers", "2", "--sequences", "synthetic_000001") == 0
    assert "best of 3 trials" in (tmp_path / "out/tracker.yaml").read_text()
    shown = capfd.readouterr().err
    assert "net.safetensors" in shown
    assert "a worker died (exit code 1); try fewer --workers" in shown


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    path = tmp_path_factory.mktemp("network") / "net.safetensors"
    torch.manual_seed(0)
    save_weights(build("rbsf", width=NARROW), "rbsf", path)
    return path


def test_workers_share_a_study(tune, network, tmp_path, monkeypatch):
    def score(constants, _):
        deadline = time.monotonic() + 60
        while constants != DEFAULTS and len(makers()) < 2 and time.monotonic() < deadline:
            time.sleep(0.1)
        return 0.5

    def makers():
        return {r["worker_id"] for r in records(tmp_path / "out") if r["op_code"] == 4}

    score_by(monkeypatch, score)
    few = ("--frames", "2", "--sequences", "synthetic_000001")
    assert tune("--weights", network, "--workers", "2", *few) == 0
    assert len(makers()) == 2
    assert not active_children()


def test_program_tunes_a_network(videos, network, tmp_path):
    words = ["--root", videos, "--weights", network, "--out", "out"]
    words += ["--trials", "2", "--threads", "1"]
    words += ["--frames", "2", "--sequences", "synthetic_000000", "synthetic_000002"]
    command = [sys.executable, str(ROOT / "tools/tune.py"), *map(str, words)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "2/2 " in done.stderr
    assert "use it: " in done.stdout
    assert read_yaml(TrackerConfig, tmp_path / "out/tracker.yaml").keys() == DEFAULTS.keys()
    assert (tmp_path / "out/tune.png").read_bytes().startswith(b"\x89PNG")


def test_program_names_bad_input_in_one_line(tmp_path):
    command = [sys.executable, str(ROOT / "tools/tune.py"), "--root", "OTB", "--out", "out"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stderr.startswith("error: OTB is test data")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()
