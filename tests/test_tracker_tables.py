"""Tables of trackers by tools/reproduce.py: trained, tracked, resumed, or from results."""

from __future__ import annotations

import dataclasses
import json
import shlex
import signal

import cv2
import numpy as np
import pytest
from conftest import NARROW, write_otb
from packed_models import random_model

from rbsf.datasets.pairs.prepare import prepare
from rbsf.datasets.synthetic.videos import write_got10k
from rbsf.engine.file import write_packed
from rbsf.eval.evaluation import Benchmark
from rbsf.eval.results import Run
from rbsf.eval.trackers import parse_tracker
from rbsf.tools import reproduce
from rbsf.tools.recipes.siamese_config import SiameseConfig, read_config
from rbsf.tools.tables import studies
from rbsf.tools.tables.tracker_studies import finish, open_test
from rbsf.tracker.siamfc import TrackerConfig
from rbsf.train import loop
from rbsf.train.config import from_settings, parse_config

SMALL = "{epochs: 1, pairs: 2, batch_size: 2, warmup: 0, val_sequences: 0, workers: 0, "
SMALL += f"device: cpu, precision: float32, width: {NARROW}}}"
TEACHER_ALONE = "{gan: false, bn_pass: 0.0, lambda_match: 0.0}"
TABLE = f"""
title: Two trackers
trains: tracker
config: rbsf.yaml
set: {SMALL}
rows:
  regression: {{set: {TEACHER_ALONE}}}
  float: {{config: siamfc.yaml}}
"""
BOX = [11.0, 11.0, 10.0, 10.0]  # counted from 1, as OTB does


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_got10k(folder / "train", count=3, seed=5, frames=4, size=(160, 120))
    prepare([folder / "train"], folder / "pairs.db", progress=False)
    return folder / "pairs.db"


@pytest.fixture
def otb(tmp_path):
    write_otb(tmp_path / "OTB", "Dog", [BOX] * 3)
    return tmp_path / "OTB"


@pytest.fixture
def flags(store, teacher, tmp_path):
    (tmp_path / "two.yaml").write_text(TABLE)
    words = [str(tmp_path / "two.yaml"), "--data", str(store), "--teacher", str(teacher)]
    return [*words, "--out", str(tmp_path / "out"), "--workers", "1"]


def times(folder):
    """When each file of trainings and results was written, without cut-out data and tables."""
    return {path: path.stat().st_mtime_ns for path in folder.glob("*/**/*") if path.is_file()}


def test_a_table_trains_and_tracks_and_does_neither_twice(flags, otb, tmp_path, capfd):
    flags += ["--test", f"OTB100={otb}"]
    out = tmp_path / "out"
    assert reproduce.main(flags) == 0
    lines = (out / "two.md").read_text().splitlines()
    assert lines[0] == "Two trackers"
    assert lines[2].startswith(
        "|  | seeds | pairs | OTB100 (1 of 100 sequences): AUC | OTB100 (1 of 100 sequences): diff"
    )
    expected = [["| regression", "1", "1 x 2"], ["| float", "1", "1 x 2"]]
    assert [line.split(" | ")[:3] for line in lines[4:6]] == expected
    assert lines[4].split(" | ")[4] == "–"  # it has no difference from itself
    assert float(lines[5].split(" | ")[4]) <= 1
    assert cv2.imread(str(out / "two.png")) is not None
    first, second = sorted(path.name for path in (out / "results" / "OTB2015").iterdir())
    assert first.startswith("rbsf-packed-")
    assert first.endswith("-packed")  # tracked by the engine
    assert second.startswith("siamfc-")
    before = times(out)
    capfd.readouterr()
    assert reproduce.main(flags) == 0
    assert times(out) == before
    assert "\n".join(lines) in capfd.readouterr().out
    # It is tracked anew, but not trained again.
    assert reproduce.main([*flags, "--every", "1", "--frames", "2"]) == 0
    expected = "| OTB100-every1-frames2 (1 of 100 sequences, 2 passes): AUC |"
    assert expected in (out / "two.md").read_text()
    assert {path: time for path, time in times(out).items() if path in before} == before
    assert reproduce.main([*flags, "--list", "--set", "epochs=2"]) == 0  # another training
    assert capfd.readouterr().out.count("to do") == 2


def test_a_table_goes_on_with_a_training_that_was_stopped(flags, tmp_path, monkeypatch, capfd):
    original = loop.Rectifier.step

    def step(self, *args):
        signal.raise_signal(signal.SIGTERM)
        return original(self, *args)

    flags += ["--only", "float"]
    monkeypatch.setattr(loop.Rectifier, "step", step)
    assert reproduce.main(flags) == 128 + signal.SIGTERM
    assert not (tmp_path / "out" / "two.md").exists()
    monkeypatch.undo()
    assert reproduce.main([*flags, "--list"]) == 0
    assert "float, seed 0: half done" in capfd.readouterr().out
    assert reproduce.main(flags) == 0
    assert (tmp_path / "out" / "two.md").read_text().splitlines()[-1] == "| float | 1 | 1 x 2 |"
    (folder,) = (tmp_path / "out").glob("siamfc-seed0-*")
    assert len(json.loads((folder / "environment.json").read_text())) == 2


def test_results_that_are_there_make_a_table(flags, otb, tmp_path):
    """An overlap of 1 scores 20 of 21 thresholds, and one of 1/3 scores 7.

    A first frame always scores 20. The third row is not trained.
    """
    table = f"{TABLE}  other: {{set: {{lr_binary: 0.1}}}}\n".replace(
        "{config: siamfc.yaml}", "{set: {lr_c: 0.1}}"
    )
    (tmp_path / "two.yaml").write_text(table)
    flags += ["--test", f"OTB100={otb}", "--seeds", "0", "1"]
    cells = reproduce.open_table(reproduce.parse_args(flags)).cells
    test = open_test(f"OTB100={otb}", tmp_path / "out")
    for number, (cell, seed, shift) in enumerate(
        [(cells[0], 0, 0), (cells[0], 1, 0), (cells[1], 0, 5), (cells[1], 1, 0)]
    ):
        config = dataclasses.replace(cell.config, seed=seed)
        file = studies.folder_of(config, tmp_path / "out") / config.result_file
        model = random_model(number)
        write_packed(file, model)
        specs = (parse_tracker(str(file)),)
        (store,) = Benchmark(test.split, test.root, specs, test.out).stores.values()
        for sequence in test.split.sequences:
            store.save(sequence, Run(sequence.boxes + np.array([shift, 0, 0, 0]), np.full(3, 0.1)))
    table = reproduce.open_table(reproduce.parse_args(flags))
    text, code = finish(table, [0, 1], tmp_path / "out", [test], "two")
    assert code == 0
    assert [line for line in text.splitlines() if line.startswith("| ")][1:] == [
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        "| regression | 2 | 1 x 2 | 0.952 ± 0.000 | – | 1.000 ± 0.000 |",
        "| float | 2 | 1 x 2 | 0.746 ± 0.292 | -0.206 ± 0.292 | 1.000 ± 0.000 |",
        "| other | not run | 1 x 2 | – | – | – |",
    ]


def test_a_network_trained_for_signs_is_tracked_by_signs_and_all_by_given_constants(
    flags, otb, tmp_path, monkeypatch
):
    row = f"  signs: {{set: {{correlation_bits: true}}}}\n  again: {{set: {TEACHER_ALONE}}}\n"
    (tmp_path / "two.yaml").write_text(TABLE.replace("  float: {config: siamfc.yaml}\n", row))
    table = reproduce.open_table(reproduce.parse_args(flags))
    for cell in table.cells:
        file = studies.folder_of(cell.config, tmp_path / "out") / cell.config.result_file
        model = random_model(0)
        write_packed(file, model)
    tracked = []
    monkeypatch.setattr(Benchmark, "run", lambda benchmark: tracked.extend(benchmark.specs))
    (tmp_path / "own.yaml").write_text("memory_share: 0.25\n")
    test = open_test(f"OTB100={otb}", tmp_path / "out", constants=tmp_path / "own.yaml")
    finish(table, [0], tmp_path / "out", [test], "two")
    assert [(spec.label, spec.config) for spec in tracked] == [
        ("regression, seed 0", TrackerConfig(memory_share=0.25)),
        ("signs, seed 0", TrackerConfig(memory_share=0.25, correlation="bits")),
    ]


def test_missing_constants_are_named_before_the_training(flags, otb, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.yaml"):
        reproduce.main([*flags, "--test", f"OTB100={otb}", "--constants", "none.yaml"])
    assert not list((tmp_path / "out").glob("rbsf-*"))


def test_a_training_is_known_by_what_decides_its_result(store, teacher, tmp_path):
    config = SiameseConfig(data=[str(store)], teacher=str(teacher))
    name = config.folder_name()
    (tmp_path / "moved").mkdir()
    for file in (store, teacher):
        (tmp_path / "moved" / file.name).write_bytes(file.read_bytes())
    moved = {
        "data": [str(tmp_path / "moved" / store.name)],
        "teacher": str(tmp_path / "moved" / teacher.name),
    }
    undecisive = {"workers": 7, "val_frames": 9, "out": "elsewhere"}
    assert from_settings(SiameseConfig, moved | undecisive).folder_name() == name
    for other in ({"seed": 1}, {"lr_c": 0.5}, {"data_share": 0.5}):
        assert from_settings(SiameseConfig, moved | other).folder_name() != name
    (tmp_path / "moved" / teacher.name).write_bytes(b"another network")
    assert SiameseConfig(**moved).folder_name() != name


@pytest.mark.parametrize(
    ("name", "rows"), [("parts", 7), ("data_size", 4), ("sources", 8), ("recipe", 7)]
)
def test_every_shipped_table_lists_commands_that_train_its_rows(
    name, rows, store, teacher, tmp_path
):
    flags = [name, "--data", str(store), "--teacher", str(teacher), "--out", str(tmp_path)]
    cells = reproduce.open_table(reproduce.parse_args(flags)).cells
    assert len({cell.config.folder_name() for cell in cells}) == rows
    for cell in cells:
        words = shlex.split(reproduce.command(cell.config, tmp_path))
        assert words[:2] == ["python", "tools/train_rbsf.py"]
        assert read_config(words[2:]) == dataclasses.replace(cell.config, out=str(tmp_path))


def test_configs_of_models_name_their_model():
    flags = ["--config", str(reproduce.CONFIGS / "siamfc.yaml")]
    assert parse_config(SiameseConfig, flags, "")["model"] == "siamfc"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--only", "flot"], "--only 'flot': no such row or column; there are float, regression"),
        (["--set", "epoch=3"], "--set: unknown setting 'epoch'; did you mean 'epochs'"),
        (["--data", "none.db"], "no training data none.db"),
        (["--teacher", "none.npz"], "no teacher none.npz"),
        (["--root", "data"], "trains trackers: --root is for tables of classifiers"),
        (["--test", "OTB100=none"], "none"),
        (["--test", "OTB=."], "--test 'OTB=.': write NAME=ROOT, NAME one of OTB2013"),
    ],
)
def test_bad_flags_are_refused(more, message, flags, tmp_path):
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        reproduce.main([*flags, *more])
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "lambda_match: 0.0",
            "lambda_mach: 0.0",
            r"two.yaml: regression: unknown setting 'lambda_mach'; did you mean",
        ),
        ("{set: {gan", "{gan: true, set: {gan", r"two.yaml: regression is .*expected {set: "),
        (
            "trains: tracker",
            "trains: [cats]",
            r"two.yaml: trains is \['cats'\]; expected classifier or tracker",
        ),
        ("config: rbsf.yaml", "config: 5", "two.yaml: config is 5; expected FILE"),
        (f"set: {SMALL}", "set:", "two.yaml: set is None; expected {name: value"),
        (
            "{config: siamfc.yaml}",
            "{config: 5}",
            "two.yaml: float: config is 5; expected the name of a file",
        ),
        (
            "{config: siamfc.yaml}",
            "{paper: 3}",
            "two.yaml: float: paper is 3; expected a list of numbers",
        ),
        (
            "{config: siamfc.yaml}",
            "{paper: [x]}",
            r"two.yaml: float: paper is \['x'\]; expected a list of numbers",
        ),
        (
            "{config: siamfc.yaml}",
            "{metric: iou}",
            "two.yaml: float: metric is 'iou'; expected top1 or top5",
        ),
        ("title: Two trackers", "title: 2", "two.yaml: title is 2; expected text"),
        (
            "trains: tracker",
            "trains: cats",
            "two.yaml: trains is 'cats'; expected classifier or tracker",
        ),
        ("title:", "titel:", "two.yaml: expected the keys config, rows, title"),
        ("epochs: 1", "epochs: one", "two.yaml: set: epochs is 'one'; expected int"),
        ("siamfc.yaml", "siam.yaml", "no config file .*siam.yaml"),
        ("rows:", "rows: [", "two.yaml: not YAML"),
    ],
)
def test_bad_tables_are_refused(old, new, message, flags, tmp_path):
    (tmp_path / "two.yaml").write_text(TABLE.replace(old, new))
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        reproduce.main(flags)


@pytest.mark.parametrize(
    ("name", "left_out", "message"),
    [
        ("parts", "--data", "R: no data to train on; give a crop store or a folder by --data"),
        ("parts", "--teacher", "R: a 1-bit network needs a teacher"),
        ("table2", "", "table2 trains classifiers: --data is for tables of trackers"),
        ("part", "", "no table .*part.yaml; there are data_size, figure2, imagenette, parts"),
    ],
)
def test_a_table_without_what_it_needs_is_refused(
    name, left_out, message, store, teacher, tmp_path
):
    given = {"--data": str(store), "--teacher": str(teacher)}
    words = [word for flag, value in given.items() if flag != left_out for word in (flag, value)]
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        reproduce.main([name, *words, "--out", str(tmp_path)])
