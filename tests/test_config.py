"""Configurations: every shipped file parses; bad keys and values are refused in one line."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from conftest import ROOT
from requirements import needs

from rbsf.models import TRACKERS
from rbsf.shipped import CONFIGS
from rbsf.tools.recipes.rbsf2 import DistillConfig
from rbsf.tools.recipes.siamese_config import SiameseConfig, read_config
from rbsf.tools.train_rbsf import main
from rbsf.tracker.flags import read_constants
from rbsf.tracker.siamfc import TrackerConfig
from rbsf.train.config import from_settings, parse_config, read_yaml, settings_of, write_yaml


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda p: p.name)
def test_every_shipped_config_parses(path):
    if path.stem.startswith("rbsf2"):
        needed = {"teacher": "b.onnx,h.onnx", "data": ["pairs.db"]}
        from_settings(DistillConfig, read_yaml(DistillConfig, path) | needed)
    else:
        from_settings(SiameseConfig, read_yaml(SiameseConfig, path))


SIAMFC = TrackerConfig(memory_share=0, box_share=0, sure_score=0, faint_score=0, redetect="off")


@pytest.mark.parametrize(
    ("name", "constants"),
    [
        ("fast", TrackerConfig(scales=1, follow_rate=0.05)),
        ("bits", TrackerConfig(correlation="bits")),
        ("siamfc", SIAMFC),
    ],
)
def test_shipped_constants_for_tracking_are_known(name, constants):
    assert read_constants(CONFIGS / "track" / f"{name}.yaml", TrackerConfig) == constants


@pytest.mark.parametrize("model", TRACKERS)
def test_every_model_has_its_defaults(model):
    assert read_config(["--model", model]).model == model


def test_flags_win_over_file_over_defaults(tmp_path):
    (tmp_path / "c.yaml").write_text("epochs: 7\nbatch_size: 3\nlr_binary: 1e-4\n")
    flags = ["--batch-size", "5", "--no-gan", "--data", "a", "--data", "b"]
    config = read_config(["--config", str(tmp_path / "c.yaml"), *flags])
    assert (config.loop.epochs, config.loop.batch_size) == (7, 5)
    assert (config.algorithm.lr_binary, config.algorithm.gan) == (1e-4, False)
    assert config.data == ["a", "b"]
    assert config.algorithm.bn_pass == 0.1  # from configs/rbsf.yaml


def test_written_settings_are_read_back(tmp_path):
    config = read_config(["--seed", "5", "--teacher", "t.npz"])
    write_yaml(config, tmp_path / "c.yaml")
    assert from_settings(SiameseConfig, read_yaml(SiameseConfig, tmp_path / "c.yaml")) == config
    assert yaml.safe_load((tmp_path / "c.yaml").read_text())["seed"] == 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch: 3", "unknown setting 'epoch'; did you mean 'epochs'?"),
        ("zzz: 3", "unknown setting 'zzz'"),
        ("epochs: many", "epochs is 'many'; expected int"),
        ("epochs: 1.5", "epochs is 1.5; expected int"),
        ("epochs: true", "epochs is True; expected int"),
        ("gan: 1", "gan is 1; expected bool"),
        ("lr_binary: fast", "lr_binary is 'fast'; expected float"),
        ("data: /x", "data is '/x'; expected list[str]"),
        ("data: [1]", "data is [1]; expected list[str]"),
        ("precision: float61", "precision is 'float61'; expected one of auto, float32, bfloat16"),
        ("model: resnet", "model is 'resnet'; expected one of siamfc, xnor, rbsf"),
        ("out: 2024-13-45", "not YAML"),
        ("- 1", "expected settings as `name: value`, found a list"),
        ("a: [", "not YAML"),
    ],
)
def test_bad_files_are_refused_in_one_line(text, message, tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ValueError) as error:
        read_config(["--config", str(path)])
    assert message in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--epochs", "0"], "epochs is 0"),
        (["--lambda-kernel", "-1"], "lambda_kernel is -1"),
        (["--lr-binary", "nan"], "lr_binary is nan"),
        (["--workers", "-1"], "workers is -1"),
        (["--workers", "100000"], "workers is 100000; it must be [0-9]+ or less"),
        (["--threads", "100000"], "threads is 100000; it must be 1024 or less"),
        (["--seed", "9" * 22], "seed is 9+; give a number of at most 2,147,483,647"),
        (["--max-gap", "9" * 20], "max_gap is 9+; give a number of at most"),
        (["--paste-share", "1.5"], "paste_share is 1.5; give a number from 0 to 1"),
        (["--still-share", "-1"], "still_share is -1.0; give a number from 0 to 1"),
        (["--width", "0"], "width is 0.0; give a factor of the hidden channels"),
        (["--gray", "2"], "gray is 2.0; give a number from 0 to 1"),
        (["--resume", "--out", "nowhere"], "nothing to resume"),
        (["--config", "nowhere.yaml"], "no config file nowhere.yaml"),
    ],
)
def test_bad_flags_are_refused(flags, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read_config(flags)


def test_help_is_complete(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert "GOT-10k" in text
    for name, each in settings_of(SiameseConfig).items():
        assert "--" + name.replace("_", "-") in text
        assert each.help, name
    assert isinstance(CONFIGS, Path)


def test_help_names_the_defaults_it_is_given_and_settings_are_those_given(capsys):
    assert parse_config(SiameseConfig, ["--seed", "5"], "", {"epochs": 71, "lr_real": 0.0}) == {
        "seed": 5
    }
    with pytest.raises(SystemExit):
        parse_config(SiameseConfig, ["--help"], "", {"epochs": 71, "lr_real": 0.0})
    text = " ".join(capsys.readouterr().out.split())
    assert "epochs (default: 71)" in text
    assert "as they are at the start (default: 0.0)" in text
    assert f"pairs in an epoch (default: {SiameseConfig.pairs})" in text


@pytest.mark.skipif(shutil.which("make") is None, reason=needs("make", "make is not installed"))
@pytest.mark.parametrize("begun", [False, True])
def test_make_weights_gives_settings_that_exist_and_goes_on_where_it_stopped(begun, tmp_path):
    """The videos count as made once their list exists, as it is written last."""
    (tmp_path / "rbsf").mkdir()
    if begun:
        (tmp_path / "rbsf" / "config.yaml").touch()
    plan = ["make", "--dry-run", "weights", "DATA=d", "TEACHER=t.npz", f"WEIGHTS={tmp_path}"]
    lines = subprocess.run(
        plan, cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert any(line.startswith(f"test -f {tmp_path}/synthetic/list.txt ||") for line in lines)
    (words,) = (
        shlex.split(line.split("tools/train_rbsf.py ")[1])
        for line in lines
        if "tools/train_rbsf.py " in line
    )
    assert ("--resume" in words) == begun
    config = read_config([word for word in words if word != "--resume"])
    assert config.model == "rbsf"
    assert config.teacher == "t.npz"
    assert config.loop.epochs == 10
    assert config.pairs == 1600
    assert config.data == ["d/GOT-10k/train", "d/stills", f"{tmp_path}/synthetic"]
