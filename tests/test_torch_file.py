"""Files of torch.save: damage is noticed, and no file takes more memory than its content."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch

from rbsf.torch_file import read_torch
from rbsf.train.checkpoint import load_checkpoint, save_checkpoint

STATE = {
    "epoch": 3,
    "modules": OrderedDict(weight=torch.arange(6.0).view(2, 3), counts=torch.tensor([1, 2])),
    "bits": torch.zeros(3, dtype=torch.bfloat16),
    "learned": torch.nn.Parameter(torch.ones(2)),
    "groups": [{"lr": 0.1, "betas": (0.9, 0.99), "name": None, "on": True}],
}


def read(path):
    return read_torch(path, "file", "copy it again")


def test_a_checkpoint_is_read_as_it_was_written(tmp_path):
    save_checkpoint(tmp_path / "c.pt", STATE)
    found = load_checkpoint(tmp_path / "c.pt")
    assert found["epoch"] == 3
    assert torch.equal(found["modules"]["weight"], torch.arange(6.0).view(2, 3))
    assert found["groups"] == STATE["groups"]


def test_every_flipped_bit_is_noticed_or_changes_nothing(tmp_path):
    """What lies between the parts of the archive is read by no one."""
    path = tmp_path / "c.pt"
    save_checkpoint(path, {"training": torch.arange(500.0), "epoch": 1})
    whole, random, refused = path.read_bytes(), np.random.default_rng(0), 0
    for place in random.integers(0, len(whole), 400):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(random.integers(8))
        path.write_bytes(damaged)
        try:
            found = load_checkpoint(path)
        except ValueError:
            refused += 1
        else:
            assert torch.equal(found["training"], torch.arange(500.0))
            assert found["epoch"] == 1
    assert refused > 200


def test_a_flipped_bit_of_a_weight_is_named(tmp_path):
    path = tmp_path / "c.pt"
    save_checkpoint(path, {"training": torch.full((500,), 1.5)})
    data = bytearray(path.read_bytes())
    data[data.index(torch.full((3,), 1.5).numpy().tobytes()) + 400] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"c\.pt: its part .*data/0 has changed .* \(CRC-32\)"):
        load_checkpoint(path)


def test_files_of_old_pytorch_load_with_a_warning(tmp_path):
    path = tmp_path / "old.pth"
    torch.save({"x": torch.ones(3)}, path, _use_new_zipfile_serialization=False)
    with pytest.warns(UserWarning, match=r"old\.pth: has no checksum, so damage cannot be noticed"):
        assert torch.equal(read(path)["x"], torch.ones(3))


class Call:
    """Pickled, it calls what it is given."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def expanded():
    """An archive of a few bytes with a tensor of a terabyte, all of whose values are one."""
    file = io.BytesIO()
    torch.save({"x": torch.ones(1).expand(1 << 38)}, file)
    return file.getvalue()


def compressed():
    """An archive whose parts are compressed, a gigabyte of zeros."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", b"N.")
        archive.writestr("a/data/0", bytes(1 << 28))
    return file.getvalue()


def archive_of(pickled):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a/data.pkl", pickled)
        archive.writestr("a/version", b"3")
        archive.writestr("a/byteorder", b"little")
    return file.getvalue()


def large_bytes():
    return pickle.dumps(Call(bytearray, 8_000_000_000), protocol=2)


HOSTILE = {
    "expanded": (expanded, "its tensors would take"),
    "compressed": (compressed, "its parts are larger than the file"),
    "bytes": (large_bytes, "holds pickled code, which is not loaded"),
    "bytes in an archive": (lambda: archive_of(large_bytes()), "holds pickled code"),
    "bytes, then damage": (lambda: archive_of(large_bytes()[:-1] + b"\xff"), "not a whole file"),
    "code": (lambda: pickle.dumps(Call(print, "x"), protocol=2), r"\(__builtin__ print\)"),
    "only the start": (lambda: b"PK\x03\x04", "not a whole file"),
    "no pickle": (lambda: archive_of(b""), "not a whole file"),
}


@pytest.mark.timeout(60)  # some would take forever
@pytest.mark.parametrize("kind", HOSTILE)
def test_small_files_take_no_memory(kind, tmp_path):
    make, message = HOSTILE[kind]
    path = tmp_path / "c.pt"
    path.write_bytes(make())
    assert path.stat().st_size < 1_000_000
    with pytest.raises(ValueError, match=message) as error:
        read(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
