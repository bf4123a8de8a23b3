"""tools/reproduce.py: the tables of the paper, trained on small folders of images."""

from __future__ import annotations

import base64
import dataclasses
import json
import shlex

import cv2
import numpy as np
import pytest
from conftest import refused

from rbsf.tools import reproduce
from rbsf.tools.recipes.classifier_config import RESULT, read_config
from rbsf.tools.tables import studies

OWN_TABLE = """
title: t
config: classify/mnist.yaml
rows: {a: {set: {method: bireal, gan: true}, paper: [1]}}
"""


def test_a_listed_command_gives_the_settings_of_its_cell(tmp_path):
    """This holds as well where a user's table asks for what the method lacks by default."""
    (tmp_path / "own.yaml").write_text(OWN_TABLE)
    for name in ("table3", str(tmp_path / "own.yaml")):
        for cell in studies.read_study(name, {}).cells:
            words = shlex.split(reproduce.command(cell.config, tmp_path))
            assert read_config(words[2:]) == dataclasses.replace(cell.config, out=str(tmp_path))


@pytest.mark.parametrize(
    ("name", "cells"), [("table2", 12), ("table3", 36), ("table4", 14), ("figure2", 2)]
)
def test_every_cell_has_its_configuration(name, cells):
    table = studies.read_study(name, {})
    assert len(table.cells) == cells
    keys = {(c.row, c.column, c.metric) for c in table.cells}
    assert len(keys) == cells
    epochs = {c.config.loop.epochs for c in table.cells}
    assert epochs == ({200} if name in ("table2", "table3") else {70})


def test_cells_of_several_tables_share_their_training(tmp_path):
    two, three = (studies.read_study(name, {}).cells for name in ("table2", "table3"))
    rbcn = next(c for c in two if (c.row, c.column) == ("32-32-64-128", "R+G+B"))
    other_name = ("RBCN (ResNet18) 32-32-64-128", "CIFAR-100")
    same = next(c for c in three if (c.row, c.column) == other_name)
    assert studies.folder_of(rbcn.config, tmp_path) == studies.folder_of(same.config, tmp_path)
    assert rbcn.config.float_twin().digest() == two[0].config.float_twin().digest()
    assert rbcn.paper == 61.64
    assert same.paper == 61.09  # the paper's two tables differ


SETTINGS = ["stages=8-8-8-8", "dataset=folder", "size=32", "batch_size=4", "epochs=1", "warmup=0"]
SETTINGS += ["workers=0", "precision=float32", "device=cpu"]
SET = [word for setting in SETTINGS for word in ("--set", setting)]


def test_reproduce_trains_what_is_missing_and_prints_both_figures(image_root, tmp_path, capsys):
    flags = ["table2", "--root", str(image_root), "--out", str(tmp_path), "--only", "32-32-64-128"]
    flags += SET
    assert reproduce.main([*flags, "--list"]) == 0
    assert capsys.readouterr().out.count("to do") == 4
    twice = [*flags, "--only", "Bi", "--seeds", "0", "1"]
    assert reproduce.main(twice) == 0
    table = (tmp_path / "table2.md").read_text()
    assert "| 32-32-64-128 | Bi | 54.92 |" in table
    (row,) = (each for each in table.splitlines() if each.startswith("| 32-32-64-128 | Bi "))
    assert row.endswith("| 8 | 2 |")
    assert table.count("| not run |") == 11
    assert "(with stages=8-8-8-8, dataset=folder, " in table
    capsys.readouterr()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob(RESULT)}
    assert reproduce.main(twice) == 0  # nothing is trained again
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob(RESULT)} == before
    assert reproduce.main([*flags, "--list"]) == 0
    listed = capsys.readouterr().out
    assert (listed.count("to do"), listed.count("Bi, seed 0: done")) == (3, 1)
    assert "--method bireal --stages 8-8-8-8" in listed


def test_a_float_cell_is_the_teacher_of_the_others(image_root, tmp_path):
    table = tmp_path / "own.yaml"
    plain = "rectify: false, gan: false, bn_pass: 0.0"
    table.write_text(
        "title: t\nconfig: classify/resnet18_cifar_small.yaml\nset: {subset: 0}\nrows:\n"
        f"  Float: {{set: {{method: float, start: random, {plain}}}, paper: [1]}}\n"
        f"  Bi: {{set: {{method: bireal, {plain}}}, paper: [1]}}\n"
    )
    flags = ["--root", str(image_root), "--out", str(tmp_path / "out"), *SET]
    assert reproduce.main([str(table), *flags]) == 0
    assert len(list((tmp_path / "out" / "teachers").iterdir())) == 1


def test_cells_are_compared_image_by_image():
    def result(bits):
        packed = np.packbits(np.array(bits, bool))
        return {"tested": len(bits), "right": base64.b64encode(packed).decode()}

    first, other = [1, 0, 0, 0] * 25, [1, 1, 0, 0] * 25
    gap = studies._paired([result(other)], [result(first)])
    assert gap.text == "+25.00 ± 8.53"  # 1.96 * 43.5 / 10
    both = [result(first), result(other)]
    assert studies._paired(both, [result(first)]).text == "+12.50 ± 4.26"
    assert studies._paired([{"tested": 4}], [result(first)]).text == ""
    assert studies._paired([], [result(first)]).text == ""


def test_only_cells_of_the_same_test_images_are_compared(tmp_path):
    table = studies.read_study("table3", {})
    for number, cell in enumerate(table.cells):
        bits = np.packbits(np.arange(8) <= number % 8)
        right = base64.b64encode(bits.tobytes()).decode()
        result = {"top1": 50.0, "images": 8, "tested": 8, "right": right}
        folder = studies.folder_of(cell.config, tmp_path)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / RESULT).write_text(json.dumps(result))
    lines = studies.as_markdown(table, [0], tmp_path).splitlines()[4:]
    shown = [line.split("|")[6].strip() for line in lines]
    for dataset in ("cifar10", "cifar100"):
        pairs = zip(table.cells, shown, strict=True)
        first, second, *_ = [text for cell, text in pairs if cell.config.dataset == dataset]
        assert first == ""
        assert "±" in second


@pytest.mark.parametrize("text", ["", "[1]", "{}", '{"top1": 50.0, "images": 8, "seed": 7}'])
def test_a_result_that_is_no_result_is_named(text, tmp_path):
    (cell, *_) = studies.read_study("table3", {}).cells
    folder = studies.folder_of(cell.config, tmp_path)
    folder.mkdir(parents=True)
    (folder / RESULT).write_text(text)
    refused(lambda: studies.result_of(cell.config, tmp_path), folder / RESULT, "delete the file")


def test_cells_of_other_numbers_of_images_are_not_paired():
    right = base64.b64encode(np.packbits(np.ones(8, bool)).tobytes()).decode()
    results = [[{"tested": count, "right": right}] for count in (8, 7)]
    assert studies._paired(*results).text == "other test images"


def test_settings_with_flags_of_their_own_are_refused(image_root, tmp_path):
    flags = ["table2", "--root", str(image_root), "--out", str(tmp_path)]
    refused(
        lambda: reproduce.main([*flags, "--set", "seed=3"]), "--set 'seed=3': give it by --seeds"
    )


def test_a_seed_given_twice_is_refused(image_root, tmp_path):
    flags = ["table2", "--root", str(image_root), "--out", str(tmp_path), "--seeds", "0", "0"]
    refused(lambda: reproduce.main(flags), "--seeds 0 0")


def test_reproduce_goes_on_where_data_is_missing_and_says_so(image_root, tmp_path, capsys):
    flags = ["table3", "--root", str(image_root), "--out", str(tmp_path)]
    assert reproduce.main([*flags, "--only", "XNOR (WRN22) 64-64-128-256"]) == 1
    captured = capsys.readouterr()
    assert captured.err.count("error: ") == 2  # both data sets are missing
    assert "| not run |" in captured.out


def test_figure_2_draws_both_curves(image_root, tmp_path, capsys):
    flags = ["figure2", "--root", str(image_root), "--out", str(tmp_path)]
    assert reproduce.main([*flags, "--set", "stem=cifar", *SET]) == 0
    assert cv2.imread(str(tmp_path / "figure2.png")) is not None
    settings = reproduce.parse_settings([*SETTINGS, "stem=cifar", f"root={image_root}"])
    cell = studies.read_study("figure2", settings).cells[1]
    curves = studies.read_curves(studies.folder_of(cell.config, tmp_path) / "log.csv")
    assert [epoch for epoch, _ in curves["test"]] == [1.0]
    assert [epoch for epoch, _ in curves["train"]] == [1.0]


def test_table_6_prints_both_figures(tmp_path, capsys):
    assert reproduce.main(["table6", "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "| memory usage, ResNet-18 | 374.1 Mbit | 374.1 Mbit |" in out
    assert "| speedup | 10.86x | 10.86x |" in out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["table2", "--set", "epochs"], "--set 'epochs': expected NAME=VALUE"),
        (["table2", "--set", "epochs=[1"], r"--set 'epochs=\[1': '\[1' is no value in YAML"),
        (["table2", "--set", "epoch=3"], "--set: unknown setting 'epoch'; did you mean 'epochs'"),
        (["table2", "--set", "epochs=many"], "--set: epochs is 'many'; expected int"),
        (["table2", "--only", "Bo"], "--only 'Bo': no such row or column"),
    ],
)
def test_reproduce_refuses_bad_flags(flags, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        reproduce.main([*flags, "--out", str(tmp_path)])
