"""tools/train_classifier.py, end to end on small folders of images, and what it refuses."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from datetime import datetime

import numpy as np
import pytest
import torch
from conftest import ROOT
from safetensors.torch import load_file
from trainings import NET, QUICK, rows_of, run_processes, train_resnet

from rbsf.datasets.images.augment import normalise
from rbsf.engine.run import Engine
from rbsf.layers import binary_layers
from rbsf.methods import METHODS
from rbsf.shipped import CONFIGS
from rbsf.tools.recipes.classifier import ClassifierRecipe
from rbsf.tools.recipes.classifier_config import (
    FLOAT,
    PLAIN,
    RESULT,
    ClassifierConfig,
    read_config,
    with_defaults,
)
from rbsf.tools.train_classifier import main
from rbsf.train.config import from_settings, read_yaml
from rbsf.train.cross_entropy import ClassificationTask, evaluate, soft_divergence
from rbsf.train.distributed import ALONE
from rbsf.train.loop import Loop
from rbsf.train.rectify_config import RectifyConfig
from rbsf.weights import load_weights

SHIPPED = sorted((CONFIGS / "classify").glob("*.yaml"))


def run_main(root, teacher, out, *flags):
    return train_resnet(root, out, "--teacher", str(teacher), *flags)


def test_a_training_leaves_weights_packed_network_log_and_result(resnet_run):
    run, said = resnet_run
    names = {path.name for path in run.iterdir()}
    assert {"resnet18.safetensors", "resnet18-packed.safetensors"} <= names
    assert {"log.csv", "losses.png", RESULT} <= names
    rows = rows_of(run / "log.csv")
    steps = [row["step"] for row in rows if row["loss"]]
    assert steps == ["1", "2", "3", "4", "5", "6"]  # 2 + 1 an epoch
    assert {"entropy", "error", "kernel", "adversarial", "discriminator"} <= rows[0].keys()
    result = json.loads((run / RESULT).read_text())
    assert result["top1"] in (0, 25, 50, 75, 100)  # of four images
    assert (result["top5"], result["epochs"], result["images"], result["tested"]) == (100, 2, 8, 4)
    _, model, info = load_weights(run / "resnet18.safetensors")
    assert (model, info["input"]["classes"]) == ("resnet18", ["bright", "dark"])
    assert "resnet18, rbcn: " in said
    assert "of 4 test images" in said


def test_a_network_of_blocks_learns_from_another_teacher_and_is_packed_exactly(
    image_root, float_resnet, tmp_path
):
    flags = ["--model", "blocks", "--method", "bireal", "--depth", "1"]
    flags += ["--lambda-distill", "1", "--stem", "", "--precision", "bfloat16"]
    assert run_main(image_root, float_resnet, tmp_path, *flags) == 0
    assert {"entropy", "divergence"} <= rows_of(tmp_path / "log.csv")[0].keys()
    net = load_weights(tmp_path / "blocks.safetensors")[0]
    pixels = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
    info = load_weights(tmp_path / "blocks.safetensors")[2]["input"]
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    with torch.no_grad():
        logits = net(normalise(x, tuple(info["mean"]), tuple(info["std"])))
    packed = Engine(tmp_path / "blocks-packed.safetensors")(pixels)
    np.testing.assert_allclose(packed, logits.numpy(), atol=1e-4)


def test_softened_classes_are_compared_as_hinton_does():
    logits, guide = torch.randn(2, 3, 5, dtype=torch.float64)
    own, other = (logits / 4).softmax(1), (guide / 4).softmax(1)
    expected = 16 * (other * (other / own).log()).sum() / 3
    torch.testing.assert_close(soft_divergence(logits, guide), expected)
    assert soft_divergence(guide, guide).abs() < 1e-12


def test_maps_can_be_compared_before_their_batch_norms(image_root, float_resnet, tmp_path):
    flags = ["--teacher", str(float_resnet), "--compare", "before"]
    config = read_config([*NET, *QUICK, "--root", str(image_root), *flags])
    recipe = ClassifierRecipe(config, ALONE)
    recipe.open()
    rectifier = recipe.build()
    assert list(rectifier.points) == list(binary_layers(rectifier.student))
    assert rectifier.step(next(recipe.batches(0, 0, 1)), 0)["adversarial"] > 0


def test_the_packed_network_gives_the_same_classes(trained_resnet):
    config = from_settings(
        ClassifierConfig, read_yaml(ClassifierConfig, trained_resnet / "config.yaml")
    )
    recipe = ClassifierRecipe(config, ALONE)
    recipe.open()
    net = load_weights(trained_resnet / "resnet18.safetensors")[0]
    packed = Engine(trained_resnet / "resnet18-packed.safetensors")
    raw_batches = recipe.test.batches(8, 0, 0, train=False)
    for raw, batch in zip(raw_batches, recipe.test_batches(), strict=True):
        with torch.no_grad():
            expected = net(batch["image"]).numpy()
        found = packed(np.ascontiguousarray(raw["image"].permute(0, 2, 3, 1).numpy()))
        np.testing.assert_allclose(found, expected, atol=1e-3, rtol=1e-3)


def test_a_resume_in_the_batch_norm_pass_is_exact_to_the_bit(
    trained_resnet, image_root, float_resnet, tmp_path, monkeypatch
):
    from rbsf.train import loop

    original = loop.Rectifier.norm_step

    def norm_step(self, *args):
        signal.raise_signal(signal.SIGTERM)  # in the pass of the first epoch
        return original(self, *args)

    monkeypatch.setattr(loop.Rectifier, "norm_step", norm_step)
    assert run_main(image_root, float_resnet, tmp_path / "stopped") == 128 + signal.SIGTERM
    monkeypatch.undo()
    assert not (tmp_path / "stopped" / RESULT).exists()
    assert main(["--resume", "--out", str(tmp_path / "stopped")]) == 0
    first = load_file(trained_resnet / "resnet18.safetensors")
    second = load_file(tmp_path / "stopped" / "resnet18.safetensors")
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_teacher_is_trained_once_for_all_that_share_it(image_root, tmp_path, capsys):
    """A float row of a table has the digest of that teacher, so it serves as well."""
    shared = ["--cache", str(tmp_path)]
    assert train_resnet(image_root, tmp_path / "a", "--epochs", "1", *shared) == 0
    assert "the float resnet18 is trained first" in capsys.readouterr().out
    flags = shlex.split("--epochs 1 --no-gan --method bireal --lambda-kernel 0")
    assert train_resnet(image_root, tmp_path / "b", *flags, *shared) == 0
    said = capsys.readouterr().out
    assert "trained first" not in said
    (file,) = (tmp_path / "teachers").glob("*/resnet18.safetensors")
    assert f"{file}, made {datetime.now():%Y-}" in said
    assert len(list((tmp_path / "teachers").iterdir())) == 1
    settings = {"dataset": "folder", "root": str(image_root), "gan": False, "lambda_match": 0.0}
    config = from_settings(ClassifierConfig, {"method": "float", **settings})
    assert config.digest() == config.float_twin().digest()


def test_apprentice_trains_the_teacher_beside_the_student(image_root, tmp_path):
    flags = shlex.split("--method scheme_a --train-teacher --no-gan --start random --lr-real 0.01")
    assert train_resnet(image_root, tmp_path / "run", *flags) == 0
    assert not (tmp_path / "teachers").exists()
    state = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["training"]
    assert "teacher" in state["optimizers"]


@pytest.mark.slow
def test_two_processes_train_a_teacher_and_its_student(image_root, tmp_path):
    flags = [*NET, "--root", str(image_root), "--out", str(tmp_path / "two"), *QUICK]
    flags += ["--epochs", "1", "--batch-size", "2"]
    done = run_processes(2, ROOT / "tools" / "train_classifier.py", *flags)
    assert done.stdout.count("on 2 x cpu") == 2  # the teacher's training and the student's
    assert json.loads((tmp_path / "two" / RESULT).read_text())["images"] == 8


def test_batches_depend_on_seed_and_epoch_alone(image_root):
    data = {"dataset": "folder", "root": str(image_root), "size": 32, "workers": 0}
    settings = {"batch_size": 4, "images": 8, "bn_pass": 0.5}
    config = from_settings(ClassifierConfig, data | settings)
    recipe = ClassifierRecipe(config, ALONE)
    recipe.open()
    first, again = list(recipe.batches(1, 0, 3)), list(recipe.batches(1, 1, 3))
    assert len(first) == 3
    for one, other in zip(first[1:], again, strict=True):
        assert torch.equal(one["image"], other["image"])
        assert torch.equal(one["label"], other["label"])
    of_an_epoch, of_the_norm_pass = first[0], first[2]
    assert not torch.equal(of_an_epoch["image"], of_the_norm_pass["image"])


def test_evaluate_counts_right_answers():
    batches = [{"image": torch.eye(8)[[0, 1, 2]], "label": torch.tensor([0, 1, 7])}]
    scores = evaluate(torch.nn.Identity(), batches, ClassificationTask())
    assert scores["top1"] == pytest.approx(200 / 3)
    assert scores["right"].tolist() == [True, True, False]
    entropies = [1.2740, 1.2740, 2.2740]  # ln(e + 7), less 1 where the answer is right
    assert scores["entropy"] == pytest.approx(np.mean(entropies), abs=1e-3)
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
        (["--lambda-distill", "-1"], "lambda_distill is -1.0; it must be 0 or more"),
        (["--depth", "-1"], "depth is -1"),
        (
            ["--method", "scheme_a", "--no-train-teacher"],
            "scheme_a, which learns beside its teacher",
        ),
        (["--method", "float", "--gan"], "method is float, but gan"),
        (["--batch-size", "9"], "images is 8: less than one batch of 9"),
    ],
)
def test_settings_that_do_not_fit_are_refused(image_root, float_resnet, tmp_path, flags, message):
    with pytest.raises(ValueError, match=message):
        run_main(image_root, float_resnet, tmp_path / "run", *flags)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("weight_bases=x", "weight_bases is 'x'; it must be a whole number"),
        ("foo=3", "unknown method option foo"),
    ],
)
def test_bad_method_options_are_refused_before_the_teacher_is_trained(
    image_root, tmp_path, option, message
):
    flags = ["--method", "abcnet", "--method-options", option]
    with pytest.raises(ValueError, match=message):
        train_resnet(image_root, tmp_path / "run", *flags)
    assert not (tmp_path / "teachers").exists()


@pytest.mark.parametrize("method", [method for method in (FLOAT, *METHODS) if method != "rbcn"])
def test_a_rival_is_trained_without_what_is_rbcns(method):
    config = read_config(["--method", method, "--start", "random"])
    used = config.algorithm
    assert (used.gan, used.lambda_match, used.bn_pass) == (False, 0, 0)
    assert not config.needs_teacher
    assert used.train_teacher == (method == "scheme_a")


def test_a_rival_is_trained_with_what_files_and_flags_ask_for(tmp_path):
    (tmp_path / "c.yaml").write_text("bn_pass: 0.2\nlambda_match: 0.5\n")
    flags = ["--method", "xnor", "--lambda-match", "0.25", "--gan"]
    config = read_config(["--config", str(tmp_path / "c.yaml"), *flags])
    used = config.algorithm
    assert (used.gan, used.lambda_match, used.bn_pass) == (True, 0.25, 0.2)


def test_rbcn_has_all_of_it_by_default():
    for config in (read_config([]), read_config(["--method", "rbcn"])):
        assert config == ClassifierConfig()
    used = config.algorithm
    assert (used.rectify, used.gan, used.lambda_match, used.bn_pass) == (True, True, 1, 0.1)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_a_rival_by_a_shipped_config_is_that_of_the_tables(path):
    config = read_config(["--config", str(path), "--method", "xnor_k"])
    settings = {**read_yaml(ClassifierConfig, path), "method": "xnor_k"}
    without = {"gan": False, "lambda_match": 0.0, "bn_pass": 0.0}
    assert config == from_settings(ClassifierConfig, settings | without)


def test_a_teacher_that_is_none_is_refused(image_root, float_resnet, trained_resnet, tmp_path):
    other = ["--stages", "16-8-8-8"]
    message = r"layer 'stages.0.0.convs.0': the teacher's filters are \(8, 8, 3, 3\), the"
    with pytest.raises(ValueError, match=message):
        run_main(image_root, float_resnet, tmp_path / "a", *other)
    with pytest.raises(ValueError, match=r"feature maps at 'stages.0.0.norms.0' do not match"):
        run_main(image_root, float_resnet, tmp_path / "b", *other, "--start", "random")
    with pytest.raises(ValueError, match=r"a teacher must be a float resnet18 \(--method float\)"):
        run_main(image_root, trained_resnet / "resnet18.safetensors", tmp_path / "c")
    with pytest.raises(FileNotFoundError, match="no weights file"):
        run_main(image_root, tmp_path / "none.safetensors", tmp_path / "d")


def test_resume_with_another_configuration_is_refused(trained_resnet, tmp_path):
    run = shutil.copytree(trained_resnet, tmp_path / "run")
    before = (run / "config.yaml").read_text()
    for flags, message in (
        (["--seed", "3"], "trained with seed 0, not 3; resume with 0"),
        (["--stages", "8-8-8-16"], "trained with stages 8-8-8-8, not 8-8-8-16"),
        (["--optimizer", "sgd"], "trained with optimizer adam, not sgd"),
        (["--lambda-kernel", "0.5"], "trained with lambda_kernel 0.0001, not 0.5"),
        (["--root", "other"], "trained with root .*, not other; leave --root out, or give"),
        (["--teacher", "b.npz"], "trained with teacher .*, not b.npz; leave --teacher out"),
    ):
        with pytest.raises(ValueError, match=message):
            main(["--resume", "--out", str(run), *flags])
    with pytest.raises(ValueError, match="epoch 2 has begun, so epochs cannot be 1; resume with 2"):
        main(["--resume", "--out", str(run), "--epochs", "1"])
    assert (run / "config.yaml").read_text() == before
    assert main(["--resume", "--out", str(run), "--epochs", "3"]) == 0  # a longer training


def test_a_validation_in_which_a_training_was_killed_is_made_up_for(
    image_root, float_resnet, tmp_path, monkeypatch
):
    def killed(self):
        raise RuntimeError("killed")

    monkeypatch.setattr(Loop, "_validate", killed)
    with pytest.raises(RuntimeError, match="killed"):
        run_main(image_root, float_resnet, tmp_path / "run")
    monkeypatch.undo()
    assert main(["--resume", "--out", str(tmp_path / "run")]) == 0
    assert sum(bool(row["val_top1"]) for row in rows_of(tmp_path / "run" / "log.csv")) == 2


def test_a_signal_ends_a_validation_at_once_and_it_is_made_up_for(
    image_root, float_resnet, tmp_path, monkeypatch
):
    out, before = tmp_path / "run", Loop._validate

    def signalled(self):
        signal.raise_signal(signal.SIGTERM)
        pytest.fail("the validation goes on")

    monkeypatch.setattr(Loop, "_validate", signalled)
    assert run_main(image_root, float_resnet, out) == 128 + signal.SIGTERM
    monkeypatch.setattr(Loop, "_validate", before)
    assert main(["--resume", "--out", str(out)]) == 0
    assert sum(bool(row["val_top1"]) for row in rows_of(out / "log.csv")) == 2


def test_settings_of_earlier_versions_that_had_no_effect_are_passed_over(
    image_root, float_resnet, tmp_path
):
    out = tmp_path / "run"
    run_main(image_root, float_resnet, out)
    path = out / "config.yaml"
    count, rest = path.read_text().split(" ", 2)[1:]
    lines = f"{rest}hidden_share: 0.0\n"
    path.write_text(f"# {int(count) + 1} {lines}")
    assert main(["--resume", "--out", str(out)]) == 0
    path.write_text(f"# {int(count) + 1} {lines.replace('hidden_share: 0.0', 'hidden_share: 0.1')}")
    with pytest.raises(ValueError, match=r"unknown setting 'hidden_share'.*; start anew without"):
        main(["--resume", "--out", str(out)])


def test_each_setting_of_the_method_is_either_kept_or_left_out_for_the_float_twin():
    kept = {"lr_real", "lr_norm", "optimizer", "weight_decay"}
    assert kept | PLAIN.keys() == {field.name for field in dataclasses.fields(RectifyConfig)}
    assert not kept & PLAIN.keys()


def test_a_float_network_has_no_teacher():
    with pytest.raises(ValueError, match=r"--teacher a\.safetensors: a float network has none"):
        read_config(["--method", "float", "--teacher", "a.safetensors"])


def test_a_network_with_its_own_layers_starts_at_random_and_has_no_twin():
    config = read_config(["--model", "blocks"])
    assert config.start == "random"
    assert not config.needs_teacher
    for flags in (["--gan"], ["--start", "teacher"], ["--lambda-match", "1"]):
        with pytest.raises(ValueError, match="model is blocks, which has no float twin"):
            read_config(["--model", "blocks", *flags])


def test_images_of_one_class_are_refused(image_root, tmp_path):
    for split in ("train", "val"):
        folder = sorted(path for path in (image_root / split).iterdir() if path.is_dir())[0]
        shutil.copytree(folder, tmp_path / "data" / split / "only")
    flags = [*NET, *QUICK, "--root", str(tmp_path / "data"), "--out", str(tmp_path / "out")]
    with pytest.raises(ValueError, match=r"data: all images are of one class, only; .* needs two"):
        main(flags)


def test_images_that_the_network_does_not_take_are_refused(image_root, tmp_path):
    flags = ["--model", "lenet", "--dataset", "folder", "--root", str(image_root), "--size", "28"]
    flags += [*QUICK, "--no-gan", "--start", "random", "--out", str(tmp_path / "run")]
    with pytest.raises(ValueError, match="lenet does not take images of 3 x 28 x 28"):
        main(flags)


def test_a_teacher_of_other_classes_is_refused(image_root, float_resnet, tmp_path):
    for split in ("train", "val"):
        (tmp_path / "three" / split).mkdir(parents=True)
        for name, source in (("a", "dark"), ("b", "bright"), ("c", "dark")):
            (tmp_path / "three" / split / name).symlink_to(image_root / split / source)
    with pytest.raises(ValueError, match="must have learned the same classes"):
        run_main(tmp_path / "three", float_resnet, tmp_path / "run")


def test_pcnn_with_several_projections_starts_from_a_teacher_on_a_part_of_the_images(
    image_root, float_resnet, tmp_path, capsys
):
    flags = shlex.split("--method pcnn --method-options projections=2 --subset 4 --epochs 1")
    assert run_main(image_root, float_resnet, tmp_path / "run", *flags) == 0
    assert ", 4 of them taken; on 1 x cpu" in capsys.readouterr().out


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_every_shipped_config_parses(path):
    assert with_defaults(read_yaml(ClassifierConfig, path)).needs_teacher


def test_mnist_learns(real_data, tmp_path):
    """A short epoch over real digits gives far more right answers than chance."""
    flags = ["--config", str(CONFIGS / "classify" / "mnist.yaml"), "--root", str(real_data)]
    flags += shlex.split("--subset 3000 --epochs 1 --batch-size 32 --warmup 0 --threads 1")
    flags += ["--no-gan", "--start", "random", "--out", str(tmp_path / "run")]
    assert main(flags) == 0
    assert json.loads((tmp_path / "run" / RESULT).read_text())["top1"] > 70


def test_two_trainings_at_once_make_their_teacher_once(image_root, tmp_path):
    """The second waits for the first one's lock, and then finds the teacher."""
    program = [sys.executable, str(ROOT / "tools" / "train_classifier.py")]
    command = [*program, *NET, "--root", str(image_root), "--cache", str(tmp_path), *QUICK]
    settings = {"stdout": subprocess.PIPE, "text": True}
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    both = [
        subprocess.Popen([*command, "--out", str(tmp_path / name)], env=env, **settings)
        for name in ("one", "two")
    ]
    said = "".join(process.communicate(timeout=200)[0] for process in both)
    assert [process.returncode for process in both] == [0, 0]
    assert said.count("is trained first") == 1
    assert said.count(", serves;") == 1
