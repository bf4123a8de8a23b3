"""Bad YAML files are refused in one line that names the file."""

from __future__ import annotations

import pytest
from requirements import case

from rbsf.system.yaml_file import read_yaml_file
from rbsf.tools.recipes.siamese_config import SiameseConfig
from rbsf.tracker.flags import read_constants
from rbsf.tracker.siamfc import TrackerConfig
from rbsf.train.config import parse_config, read_yaml

BAD = {
    "a tag for no truth": ("gan: !!bool x", "not YAML (KeyError: 'x')"),
    "a tag for no number": ('epochs: !!int ""', "not YAML (IndexError"),
    "a tag for no date": ("out: !!timestamp x", "not YAML (AttributeError"),
    "a tag of Python": ("out: !!python/object/apply:os.system [ls]", "not YAML (line 1: could not"),
    "nested": ("[" * 5000, "not YAML (nested too deeply)"),
    "a long number": ("epochs: " + "1" * 400, "epochs is 1111"),
    "a longer number": ("epochs: " + "1" * 5000, "not YAML (ValueError: Exceeds"),
    "a long number for a factor": ("lr_binary: " + "1" * 400, "lr_binary is 1111"),
    "no number": ("lr_binary: .nan", "lr_binary is nan; give a finite number"),
    "an infinite number": ("lr_binary: -.inf", "lr_binary is -inf; give a finite number"),
    "an alias": ("data: &a [x]\nteacher: *a", "not YAML (line 2: an alias (*) is not read"),
    "a merged alias": ("data: &a {x: 1}\nteacher: {<<: [*a, *a]}", "not YAML (line 2: an alias"),
    "an alias of itself": ("data: &a [*a]", "not YAML (line 1: an alias"),
    "a key that is a list": ("? [a, b]\n: 1", "not YAML ("),
    "a key given twice": (
        "epochs: 1\nseed: 2\nepochs: 3",
        "not YAML (line 3: a key is given twice",
    ),
    "a key given twice within": ("data: {a: 1, a: 2}", "not YAML (line 1: a key is given twice"),
    "a set": ("epochs: !!set {1, 2}", "epochs is {1, 2}; expected int"),
    "a zero byte": ("epochs: 1\0", "line 1: not UTF-8 text"),
    "large": ("# " + "x" * 300_000, "300,002 bytes; 200,000 at most are read"),
}


@pytest.mark.timeout(60)  # some bombs would take forever
@pytest.mark.parametrize("kind", BAD)
def test_bad_files_get_one_line(kind, tmp_path):
    text, message = BAD[kind]
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ValueError) as error:
        read_yaml(SiameseConfig, path)
    assert str(error.value).startswith(str(path))
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < len(str(path)) + 300


def test_encodings(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_bytes("\ufeffepochs: 3\n".encode())
    assert read_yaml_file(path) == {"epochs": 3}
    path.write_bytes("epochs: 3\n".encode("utf-16"))
    with pytest.raises(ValueError, match=r"c\.yaml line 1: not UTF-8 text"):
        read_yaml_file(path)


READERS = [
    lambda path: read_constants(path, TrackerConfig),
    lambda path: read_yaml(SiameseConfig, path),
]


@pytest.mark.parametrize("read", READERS)
def test_aliases_of_aliases(read):
    path = case("hostile") / "yaml_laughs_value.yaml"
    with pytest.raises(ValueError, match=r"value\.yaml: not YAML \(line 3: an alias"):
        read(path)


def test_flags_are_finite_numbers():
    with pytest.raises(ValueError, match="exemplar_shift is nan; give a finite number"):
        parse_config(SiameseConfig, ["--exemplar-shift", "nan"], "")
