"""tools/train_classifier.py and reproduce.py, end to end on small folders of images, and what they
refuse.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from contextlib import redirect_stdout
from datetime import datetime

import cv2
import numpy as np
import pytest
import torch
from conftest import ROOT
from safetensors.torch import load_file

from rbsf.datasets.images.in_memory import ArrayData
from rbsf.engine.run import Engine
from rbsf.methods import METHODS
from rbsf.shipped import CONFIGS
from rbsf.tools import classify, reproduce, studies
from rbsf.tools.recipes.classifier import (
    FLOAT,
    RESULT,
    ClassifierConfig,
    ClassifierRecipe,
    input_of,
    open_data,
    read_config,
)
from rbsf.tools.train_classifier import main
from rbsf.tracker.backbones import load_backbone
from rbsf.train.config import from_settings, read_yaml
from rbsf.train.cross_entropy import ClassificationTask, evaluate
from rbsf.train.distributed import ALONE
from rbsf.weights import load_weights

NET = [
    "--model",
    "resnet18",
    "--stages",
    "8-8-8-8",
    "--stem",
    "cifar",
    "--dataset",
    "folder",
    "--size",
    "32",
]
QUICK = [
    "--batch-size",
    "4",
    "--epochs",
    "2",
    "--warmup",
    "0",
    "--log-every",
    "1",
    "--workers",
    "0",
    "--bn-pass",
    "0.5",
]
QUICK += ["--lambda-match", "0", "--precision", "float32", "--device", "cpu"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Eight training and four test images of two classes, a bright and a dark one."""
    folder = tmp_path_factory.mktemp("images")
    for split, count in (("train", 4), ("val", 2)):
        for level, name in ((60, "dark"), (180, "bright")):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                noise = np.random.default_rng(number).integers(0, 40, (40, 48, 3)) + level
                cv2.imwrite(str(folder / split / name / f"{number}.png"), noise.astype(np.uint8))
    return folder


@pytest.fixture(scope="module")
def teacher(root, tmp_path_factory):
    out = tmp_path_factory.mktemp("teacher") / "run"
    flags = ["--method", "float", "--no-gan", "--no-rectify", "--start", "random", "--epochs", "1"]
    assert main([*NET, "--root", str(root), "--out", str(out), *QUICK, *flags]) == 0
    return out / "resnet18.safetensors"


def run_main(root, teacher, out, *flags):
    return main(
        [*NET, "--root", str(root), "--teacher", str(teacher), "--out", str(out), *QUICK, *flags]
    )


@pytest.fixture(scope="module")
def whole(root, teacher, tmp_path_factory):
    """A whole training, and what it printed."""
    out = tmp_path_factory.mktemp("whole") / "run"
    with redirect_stdout(io.StringIO()) as said:
        assert run_main(root, teacher, out) == 0
    return out, said.getvalue()


@pytest.fixture(scope="module")
def trained(whole):
    """The folder of that training."""
    return whole[0]


def rows_of(log):
    with open(log, newline="") as file:
        return list(csv.DictReader(file))


def test_a_training_leaves_weights_packed_network_log_and_result(whole):
    run, said = whole
    names = {path.name for path in run.iterdir()}
    assert {
        "resnet18.safetensors",
        "resnet18-packed.safetensors",
        "log.csv",
        "losses.png",
        RESULT,
    } <= names
    rows = rows_of(run / "log.csv")
    assert [row["step"] for row in rows if row["loss"]] == [
        "1",
        "2",
        "3",
        "4",
        "5",
        "6",
    ]  # 2 + 1 an epoch
    assert {"entropy", "error", "kernel", "adversarial", "discriminator"} <= rows[0].keys()
    result = json.loads((run / RESULT).read_text())
    assert result["top1"] in (0, 25, 50, 75, 100)  # of four images
    assert (result["top5"], result["epochs"], result["images"], result["tested"]) == (100, 2, 8, 4)
    _, model, info = load_weights(run / "resnet18.safetensors")
    assert (model, info["input"]["classes"]) == ("resnet18", ["bright", "dark"])
    assert "resnet18, rbcn: " in said
    assert "of 4 test images" in said


def test_the_packed_network_gives_the_same_classes(trained):
    config = from_settings(ClassifierConfig, read_yaml(ClassifierConfig, trained / "config.yaml"))
    recipe = ClassifierRecipe(config, ALONE)
    recipe.open()
    net = load_weights(trained / "resnet18.safetensors")[0]
    packed = Engine(trained / "resnet18-packed.safetensors")
    for raw, batch in zip(
        recipe.test.batches(8, 0, 0, train=False), recipe.test_batches(), strict=True
    ):
        with torch.no_grad():
            expected = net(batch["image"]).numpy()
        found = packed(np.ascontiguousarray(raw["image"].permute(0, 2, 3, 1).numpy()))
        np.testing.assert_allclose(found, expected, atol=1e-3, rtol=1e-3)


def test_resume_in_the_batch_norm_pass_to_the_bit(trained, root, teacher, tmp_path, monkeypatch):
    from rbsf.train import loop

    original = loop.Rectifier.norm_step

    def norm_step(self, *args):
        signal.raise_signal(signal.SIGTERM)  # in the pass of the first epoch
        return original(self, *args)

    monkeypatch.setattr(loop.Rectifier, "norm_step", norm_step)
    assert run_main(root, teacher, tmp_path / "stopped") == 128 + signal.SIGTERM
    monkeypatch.undo()
    assert not (tmp_path / "stopped" / RESULT).exists()
    assert main(["--resume", "--out", str(tmp_path / "stopped")]) == 0
    first, second = (
        load_file(run / "resnet18.safetensors") for run in (trained, tmp_path / "stopped")
    )
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_teacher_is_trained_once_for_all_that_share_it(root, tmp_path, capsys):
    flags = [*NET, "--root", str(root), *QUICK, "--epochs", "1"]
    assert main([*flags, "--out", str(tmp_path / "a")]) == 0
    assert "the float resnet18 is trained first" in capsys.readouterr().out
    assert (
        main(
            [
                *flags,
                "--out",
                str(tmp_path / "b"),
                "--no-gan",
                "--method",
                "bireal",
                "--lambda-kernel",
                "0",
            ]
        )
        == 0
    )
    said = capsys.readouterr().out
    assert "trained first" not in said
    (file,) = (tmp_path / "teachers").glob("*/resnet18.safetensors")
    assert f"{file}, made {datetime.now():%Y-}" in said
    assert len(list((tmp_path / "teachers").iterdir())) == 1
    settings = {"method": "float", "gan": False, "lambda_match": 0.0}
    folder = {"dataset": "folder", "root": str(root)}
    config = from_settings(ClassifierConfig, folder | settings)
    assert (
        config.digest() == config.float_twin().digest()
    )  # a float row of a table is the teacher of others


def test_apprentice_trains_the_teacher_beside_the_student(root, tmp_path):
    flags = [
        "--method",
        "scheme_a",
        "--train-teacher",
        "--no-gan",
        "--start",
        "random",
        "--lr-real",
        "0.01",
    ]
    assert main([*NET, "--root", str(root), *QUICK, "--out", str(tmp_path / "run"), *flags]) == 0
    assert not (tmp_path / "teachers").exists()
    state = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["training"]
    assert "teacher" in state["optimizers"]


def test_two_processes_train_a_teacher_and_its_student(root, tmp_path):
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
    ]
    command += [
        str(ROOT / "tools" / "train_classifier.py"),
        *NET,
        "--root",
        str(root),
        "--out",
        str(tmp_path / "two"),
    ]
    command += [*QUICK, "--epochs", "1", "--batch-size", "2"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=env)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("on 2 x cpu") == 2  # the teacher's training and the student's
    assert json.loads((tmp_path / "two" / RESULT).read_text())["images"] == 8


def test_batches_depend_on_seed_and_epoch_alone(root):
    folder = {"dataset": "folder", "root": str(root), "size": 32}
    settings = {"batch_size": 4, "images": 8, "workers": 0, "bn_pass": 0.5}
    config = from_settings(ClassifierConfig, folder | settings)
    recipe = ClassifierRecipe(config, ALONE)
    recipe.open()
    first, again = list(recipe.batches(1, 0, 3)), list(recipe.batches(1, 1, 3))
    assert len(first) == 3
    for one, other in zip(first[1:], again, strict=True):
        assert torch.equal(one["image"], other["image"])
        assert torch.equal(one["label"], other["label"])
    assert not torch.equal(
        first[0]["image"], first[2]["image"]
    )  # the batch-norm pass has an order of its own


def test_evaluate_counts_right_answers():
    batches = [{"image": torch.eye(8)[[0, 1, 2]], "label": torch.tensor([0, 1, 7])}]
    scores = evaluate(torch.nn.Identity(), batches, ClassificationTask())
    assert scores["top1"] == pytest.approx(200 / 3)
    assert scores["entropy"] == pytest.approx(
        np.mean([1.2740, 1.2740, 2.2740]), abs=1e-3
    )  # ln(e + 7) - (1 or 0)
    with pytest.raises(ValueError, match="no image to evaluate on"):
        evaluate(torch.nn.Identity(), [], ClassificationTask())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--stages", "8-8-8"], "stages is '8-8-8'; expected 4"),
        (
            ["--method-options", "weight_bases"],
            "method_options holds 'weight_bases'; expected NAME=VALUE",
        ),
        (["--method-options", "bases=2"], "unknown method option bases"),
        (["--subset", "-1"], "subset is -1"),
        (["--seed", "-1"], "seed is -1; it must be 0 or more"),
        (["--images", "64"], "images is 64: there are 8 to train on"),
        (["--train-teacher"], "train_teacher goes without gan"),
        (
            ["--method", "scheme_a", "--no-train-teacher"],
            "scheme_a, which learns beside its teacher",
        ),
        (["--method", "float", "--gan"], "method is float, but gan"),
        (["--batch-size", "9"], "images is 8: less than one batch of 9"),
    ],
)
def test_settings_that_do_not_fit_are_refused(root, teacher, tmp_path, flags, message):
    with pytest.raises(ValueError, match=message):
        run_main(root, teacher, tmp_path / "run", *flags)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["weight_bases=x"], "weight_bases is 'x'; it must be a whole number"),
        (["foo=3"], "unknown method option foo"),
    ],
)
def test_bad_method_options_are_refused_before_the_teacher_is_trained(
    root, tmp_path, options, message
):
    flags = [
        *NET,
        "--root",
        str(root),
        "--out",
        str(tmp_path / "run"),
        *QUICK,
        "--method",
        "abcnet",
    ]
    with pytest.raises(ValueError, match=message):
        main([*flags, *(word for option in options for word in ("--method-options", option))])
    assert not (tmp_path / "teachers").exists()


@pytest.mark.parametrize("method", [method for method in (FLOAT, *METHODS) if method != "rbcn"])
def test_a_rival_is_trained_without_what_is_rbcns(method, tmp_path):
    config = read_config(["--method", method, "--start", "random"])
    used = config.algorithm
    assert (used.gan, used.lambda_match, used.bn_pass) == (False, 0, 0)
    assert not config.needs_teacher
    assert used.train_teacher == (method == "scheme_a")
    (tmp_path / "c.yaml").write_text("bn_pass: 0.2\nlambda_match: 0.5\n")
    given = [
        "--config",
        str(tmp_path / "c.yaml"),
        "--method",
        "xnor",
        "--lambda-match",
        "0.25",
        "--gan",
    ]
    used = read_config(given).algorithm
    assert (used.gan, used.lambda_match, used.bn_pass) == (True, 0.25, 0.2)  # files and flags win


def test_rbcn_has_all_of_it_by_default():
    for config in (read_config([]), read_config(["--method", "rbcn"])):
        assert config == ClassifierConfig()
    used = config.algorithm
    assert (used.rectify, used.gan, used.lambda_match, used.bn_pass) == (True, True, 1, 0.1)


@pytest.mark.parametrize(
    "path", sorted((CONFIGS / "classify").glob("*.yaml")), ids=lambda p: p.name
)
def test_a_rival_by_a_shipped_config_is_that_of_the_tables(path):
    config = read_config(["--config", str(path), "--method", "xnor_k"])
    settings = {**read_yaml(ClassifierConfig, path), "method": "xnor_k"}
    off = {"gan": False, "lambda_match": 0.0, "bn_pass": 0.0}
    assert config == from_settings(ClassifierConfig, settings | off)


def test_a_listed_command_gives_the_settings_of_its_cell(tmp_path):
    """Also where a table of one's own asks for what the method has not by default."""
    text = "{title: t, config: classify/mnist.yaml, rows: {a: {set: {method: bireal, gan: true}, paper: [1]}}}"
    (tmp_path / "own.yaml").write_text(text)
    for name in ("table3", str(tmp_path / "own.yaml")):
        for cell in studies.read_study(name, {}).cells:
            words = shlex.split(reproduce.command(cell.config, tmp_path))
            assert read_config(words[2:]) == dataclasses.replace(cell.config, out=str(tmp_path))


def test_a_teacher_that_is_none_is_refused(root, teacher, trained, tmp_path):
    with pytest.raises(
        ValueError,
        match=r"layer 'stages.0.0.convs.0': the teacher's filters are \(8, 8, 3, 3\), the",
    ):
        run_main(root, teacher, tmp_path / "a", "--stages", "16-8-8-8")
    with pytest.raises(ValueError, match=r"feature maps at 'stages.0.0.norms.0' do not match"):
        run_main(root, teacher, tmp_path / "b", "--stages", "16-8-8-8", "--start", "random")
    with pytest.raises(ValueError, match=r"a teacher must be a float resnet18 \(--method float\)"):
        run_main(root, trained / "resnet18.safetensors", tmp_path / "c")
    with pytest.raises(FileNotFoundError, match="no weights file"):
        run_main(root, tmp_path / "none.safetensors", tmp_path / "d")


def test_resume_with_another_configuration_is_refused(trained, tmp_path):
    run = shutil.copytree(trained, tmp_path / "run")
    before = (run / "config.yaml").read_text()
    for flags, message in (
        (["--seed", "3"], "trained with seed 0, not 3; resume with 0"),
        (["--stages", "8-8-8-16"], "trained with stages 8-8-8-8, not 8-8-8-16"),
        (["--optimizer", "sgd"], "trained with optimizer adam, not sgd"),
        (["--lambda-kernel", "0.5"], "trained with lambda_kernel 0.0001, not 0.5"),
    ):
        with pytest.raises(ValueError, match=message):
            main(["--resume", "--out", str(run), *flags])
    assert (run / "config.yaml").read_text() == before
    assert main(["--resume", "--out", str(run), "--epochs", "3"]) == 0  # a longer training


def test_images_that_the_network_does_not_take_are_refused(root, tmp_path):
    flags = ["--model", "lenet", "--dataset", "folder", "--root", str(root), "--size", "28", *QUICK]
    flags += ["--no-gan", "--start", "random", "--out", str(tmp_path / "run")]
    with pytest.raises(ValueError, match="lenet does not take images of 3 x 28 x 28"):
        main(flags)


def test_a_teacher_of_other_classes_is_refused(root, teacher, tmp_path):
    for split in ("train", "val"):
        (tmp_path / "three" / split).mkdir(parents=True)
        for name, source in (("a", "dark"), ("b", "bright"), ("c", "dark")):
            (tmp_path / "three" / split / name).symlink_to(root / split / source)
    with pytest.raises(ValueError, match="must have learned the same classes"):
        run_main(tmp_path / "three", teacher, tmp_path / "run")


def test_pcnn_with_several_projections_starts_from_a_teacher_on_a_part_of_the_images(
    root, teacher, tmp_path, capsys
):
    flags = [
        "--method",
        "pcnn",
        "--method-options",
        "projections=2",
        "--subset",
        "4",
        "--epochs",
        "1",
    ]
    assert run_main(root, teacher, tmp_path / "run", *flags) == 0
    assert ", 4 of them taken; on 1 x cpu" in capsys.readouterr().out


@pytest.mark.parametrize(
    "path", sorted((CONFIGS / "classify").glob("*.yaml")), ids=lambda p: p.name
)
def test_every_shipped_config_parses(path):
    config = from_settings(ClassifierConfig, read_yaml(ClassifierConfig, path))
    assert config.needs_teacher


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
    same = next(
        c for c in three if (c.row, c.column) == ("RBCN (ResNet18) 32-32-64-128", "CIFAR-100")
    )
    assert studies.folder_of(rbcn.config, tmp_path) == studies.folder_of(same.config, tmp_path)
    assert rbcn.config.float_twin().digest() == two[0].config.float_twin().digest()
    assert rbcn.paper == 61.64
    assert same.paper == 61.09  # the paper's two tables differ


SETTINGS = [
    "stages=8-8-8-8",
    "dataset=folder",
    "size=32",
    "batch_size=4",
    "epochs=1",
    "warmup=0",
    "workers=0",
]
SETTINGS += ["precision=float32", "device=cpu"]


def test_reproduce_trains_what_is_missing_and_prints_both_figures(root, tmp_path, capsys):
    flags = ["table2", "--root", str(root), "--out", str(tmp_path), "--only", "32-32-64-128"]
    flags += [word for setting in SETTINGS for word in ("--set", setting)]
    assert reproduce.main([*flags, "--list"]) == 0
    assert capsys.readouterr().out.count("to do") == 4
    assert reproduce.main([*flags, "--only", "Bi", "--seeds", "0", "1"]) == 0
    table = (tmp_path / "table2.md").read_text()
    assert "| 32-32-64-128 | Bi | 54.92 |" in table
    assert table.splitlines()[-1].endswith("| 8 | 2 |")
    capsys.readouterr()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob(RESULT)}
    assert (
        reproduce.main([*flags, "--only", "Bi", "--seeds", "0", "1"]) == 0
    )  # nothing is trained again
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob(RESULT)} == before
    assert reproduce.main([*flags, "--list"]) == 0
    listed = capsys.readouterr().out
    assert (listed.count("to do"), listed.count("Bi, seed 0: done")) == (3, 1)
    assert "--method bireal --stages 8-8-8-8" in listed


def test_reproduce_goes_on_where_data_is_missing_and_says_so(root, tmp_path, capsys):
    flags = [
        "table3",
        "--root",
        str(root),
        "--out",
        str(tmp_path),
        "--only",
        "XNOR (WRN22) 64-64-128-256",
    ]
    assert reproduce.main(flags) == 1
    captured = capsys.readouterr()
    assert captured.err.count("error: ") == 2  # both data sets are missing
    assert "| not run |" in captured.out


def test_figure_2_draws_both_curves(root, tmp_path, capsys):
    flags = ["figure2", "--root", str(root), "--out", str(tmp_path), "--set", "stem=cifar"]
    flags += [word for setting in SETTINGS for word in ("--set", setting)]
    assert reproduce.main(flags) == 0
    assert cv2.imread(str(tmp_path / "figure2.png")) is not None
    cell = studies.read_study(
        "figure2", reproduce.parse_settings([*SETTINGS, "stem=cifar", f"root={root}"])
    ).cells[1]
    curves = studies.read_curves(studies.folder_of(cell.config, tmp_path) / "log.csv")
    assert [epoch for epoch, _ in curves["test"]] == [1.0]
    assert [epoch for epoch, _ in curves["train"]] == [1.0]


def test_table_6(tmp_path, capsys):
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
def test_reproduce_refuses(flags, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        reproduce.main([*flags, "--out", str(tmp_path)])


def test_mnist_learns(real_data, tmp_path):
    """One short epoch over real digits: far from the full training's figure, and far above chance."""
    flags = [
        "--config",
        str(CONFIGS / "classify" / "mnist.yaml"),
        "--root",
        str(real_data),
        "--subset",
        "3000",
    ]
    flags += [
        "--epochs",
        "1",
        "--out",
        str(tmp_path / "run"),
        "--threads",
        "1",
        "--warmup",
        "0",
        "--batch-size",
        "32",
    ]
    flags += ["--no-gan", "--start", "random"]
    assert main(flags) == 0
    assert json.loads((tmp_path / "run" / RESULT).read_text())["top1"] > 70


def test_classify_names_the_classes_of_images(root, trained, tmp_path, capsys):
    packed = str(trained / "resnet18-packed.safetensors")
    images = [str(root / "val" / "dark"), str(root / "val" / "bright" / "0.png")]
    assert classify.main(["--weights", packed, "--top", "2", *images]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[2].startswith(images[1] + ": ")
    shares = [
        float(word.removesuffix("%"))
        for word in lines[0].replace(",", "").split()
        if word.endswith("%")
    ]
    assert sum(shares) == pytest.approx(100, abs=0.2)
    (tmp_path / "cut.png").write_bytes((root / "val" / "dark" / "0.png").read_bytes()[:60])
    assert (
        classify.main(["--weights", packed, str(tmp_path / "cut.png"), images[1]]) == 1
    )  # the good one is classed
    captured = capsys.readouterr()
    assert "cut.png: not a whole image" in captured.err
    assert len(captured.out.splitlines()) == 1


@pytest.mark.parametrize(("share", "taken"), [({"share": 1.0}, 32), ({"share": 0.5}, 16), ({}, 28)])
def test_loose_images_are_cut_as_those_of_the_training(share, taken, tmp_path):
    image = np.zeros((32, 32, 3), np.uint8)
    image[1:-1, 1:-1] = 255  # a frame of black: seen by a network that takes the whole image
    cv2.imwrite(str(tmp_path / "a.png"), image)
    seen = []
    shape = {"size": taken, "mean": [0, 0, 0], "classes": ["a", "b"], **share}
    network = classify.Classifier(
        "net", lambda images: seen.append(images) or np.zeros((1, 2)), shape
    )
    assert classify.class_images(network, [tmp_path / "a.png"], 1) == 0
    first = (32 - taken) // 2
    np.testing.assert_array_equal(seen[0][0], image[first : 32 - first, first : 32 - first])


def test_weights_say_how_images_are_cut(root):
    config = ClassifierConfig(dataset="folder", root=str(root), size=32)
    assert input_of(open_data(config, torch.device("cpu"))[1])["share"] == 224 / 256
    whole = ArrayData(
        torch.zeros(1, 1, 4, 4, dtype=torch.uint8),
        torch.zeros(1, dtype=torch.int64),
        ("a",),
        (0.0,),
        (1.0,),
    )
    assert input_of(whole)["share"] == 1


def test_classify_compares_packed_and_pytorch_on_a_test_set(root, trained, tmp_path, capsys):
    flags = [
        "--weights",
        str(trained / "resnet18.safetensors"),
        "--dataset",
        "folder",
        "--root",
        str(root),
    ]
    assert classify.main([*flags, "--compare", "--json", str(tmp_path / "figures.json")]) == 0
    figures = json.loads((tmp_path / "figures.json").read_text())
    result = json.loads((trained / RESULT).read_text())
    assert figures.pop("differing") == 0
    assert {values["top1"] for values in figures.values()} == {result["top1"]}
    assert "predictions that differ: 0 of 4" in capsys.readouterr().out


def test_classify_refuses(root, trained, tmp_path, capsys):
    packed = str(trained / "resnet18-packed.safetensors")
    (tmp_path / "empty").mkdir()
    for flags, message in (
        (["--weights", packed, "--engine", "torch", str(root)], "is packed; give the weights file"),
        (
            ["--weights", str(ROOT / "weights" / "rbsf.safetensors"), str(root)],
            "a packed tracker, no classifier; give",
        ),
        (["--weights", packed, str(tmp_path / "empty")], "holds no images"),
        (["--weights", packed, str(tmp_path / "none.jpg")], "no image"),
        (["--weights", str(tmp_path / "none"), str(root)], "no weights file"),
    ):
        with pytest.raises((ValueError, OSError), match=message):
            classify.main(flags)
    with pytest.raises(SystemExit):
        classify.main(["--weights", packed])
    assert "give images, or --dataset" in capsys.readouterr().err
    (tmp_path / "other").mkdir()
    for split in ("train", "val"):
        (root / split / "dark").rename(root / split / "dim")
    try:
        with pytest.raises(ValueError, match="was trained on other classes"):
            classify.main(["--weights", packed, "--dataset", "folder", "--root", str(root)])
    finally:
        for split in ("train", "val"):
            (root / split / "dim").rename(root / split / "dark")


def test_a_classifier_is_no_tracker(trained):
    for name, message in (
        ("resnet18", "holds no tracker backbone"),
        ("resnet18-packed", "classifier, no tracker"),
    ):
        with pytest.raises(ValueError, match=message):
            load_backbone(trained / f"{name}.safetensors")


def test_two_trainings_at_once_make_their_teacher_once(root, tmp_path):
    """The second waits for the lock; then the teacher is there."""
    command = [
        sys.executable,
        str(ROOT / "tools" / "train_classifier.py"),
        *NET,
        "--root",
        str(root),
        *QUICK,
    ]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    both = [
        subprocess.Popen(
            [*command, "--out", str(tmp_path / name)], stdout=subprocess.PIPE, text=True, env=env
        )
        for name in ("one", "two")
    ]
    said = "".join(process.communicate(timeout=200)[0] for process in both)
    assert [process.returncode for process in both] == [0, 0]
    assert said.count("is trained first") == 1
    assert said.count(", serves;") == 1
