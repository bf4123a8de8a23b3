"""Which engine runs which file; packed files track without PyTorch."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT
from safetensors.numpy import save_file

from rbsf.datasets.synthetic.videos import make_sequence, write_video
from rbsf.engine.run import Engine
from rbsf.export.pack import pack_weights
from rbsf.models import build
from rbsf.tracker.engines import choose_engine, is_packed
from rbsf.tracker.loading import load_network
from rbsf.tracker.siamfc import SiamFC
from rbsf.weights import load_weights, save_weights

TRAINED = ROOT / "weights" / "rbsf-train.safetensors"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A 1-bit network, its packed form, and a float network."""
    folder = tmp_path_factory.mktemp("files")
    net, _, _ = load_weights(TRAINED)
    save_weights(net, "rbsf", folder / "net.safetensors")
    pack_weights(folder / "net.safetensors", folder / "net-packed.safetensors")
    save_weights(build("siamfc"), "siamfc", folder / "float.safetensors")
    return folder


def test_engine_and_file_are_chosen(files):
    net, packed, real = (files / f"{name}.safetensors" for name in ("net", "net-packed", "float"))
    expected = [False, True, False, False]
    assert [is_packed(path) for path in (net, packed, real, files / "none")] == expected
    assert choose_engine(packed) == choose_engine(packed, "packed") == (packed, "packed")
    assert choose_engine(packed, "torch") == (net, "torch")
    assert choose_engine(net) == (net, "torch")
    assert choose_engine(ROOT / "weights/rbsf.safetensors", "torch") == (TRAINED, "torch")
    with pytest.raises(ValueError, match="engine 'fast': give one of auto, packed, torch"):
        choose_engine(net, "fast")


def test_torch_needs_the_network_that_was_packed(files, tmp_path):
    packed = tmp_path / "other-packed.safetensors"
    packed.write_bytes((files / "net-packed.safetensors").read_bytes())
    with pytest.raises(ValueError, match=r"other.safetensors, which is not there"):
        choose_engine(packed, "torch")
    (tmp_path / "other.safetensors").write_bytes((files / "float.safetensors").read_bytes())
    message = r"other.safetensors is not what .*other-packed.safetensors was exported from"
    with pytest.raises(ValueError, match=message):
        choose_engine(packed, "torch")


def test_weights_are_packed_on_loading(files):
    loaded = load_network(files / "net.safetensors", engine="packed", threads=1)
    assert isinstance(loaded, Engine)
    images = np.random.default_rng(0).integers(0, 256, (1, 127, 127, 3), dtype=np.uint8)
    np.testing.assert_array_equal(
        loaded(images), load_network(files / "net-packed.safetensors")(images)
    )
    message = r"float.safetensors: .* no binary convolution.*leave out --engine packed"
    with pytest.raises(ValueError, match=message):
        load_network(files / "float.safetensors", engine="packed")


def test_the_packed_engine_runs_on_the_cpu_alone(files):
    for device in ("auto", "cpu"):
        load_network(files / "net-packed.safetensors", device)
    message = "device 'cuda': the packed engine runs on the CPU; add --engine torch"
    with pytest.raises(ValueError, match=message):
        load_network(files / "net-packed.safetensors", "cuda")


def test_the_packed_engine_says_that_it_has_no_precision(files, capsys):
    load_network(files / "net-packed.safetensors")
    assert capsys.readouterr().err == ""
    load_network(files / "net-packed.safetensors", precision="bfloat16")
    said = capsys.readouterr().err
    assert "net-packed.safetensors: the packed engine ignores --precision bfloat16" in said
    assert said.count("\n") == 1


def test_a_packed_file_is_no_weights_file(files):
    with pytest.raises(ValueError, match="a packed tracker, which runs but does not train; give"):
        load_weights(files / "net-packed.safetensors")


@pytest.mark.parametrize("engine", ["auto", "packed"])
def test_a_packed_file_of_an_old_format_is_refused(engine, tmp_path):
    path = tmp_path / "old.safetensors"
    save_file({"conv1.weight": np.zeros(3, np.int8)}, path, {"format": "rbsf-packed-1"})
    message = r"old.safetensors: its format is rbsf-packed-1, .* export its weights file again"
    with pytest.raises(ValueError, match=message):
        load_network(path, engine=engine)


def test_both_engines_give_the_same_boxes_of_a_made_video(files):
    frames = list(make_sequence(5, frames=8))
    boxes = {}
    for engine in ("packed", "torch"):
        backbone = load_network(files / "net-packed.safetensors", "cpu", engine=engine, threads=1)
        tracker = SiamFC(backbone)
        tracker.init(frames[0][0], frames[0][1])
        boxes[engine] = [tracker.update(image).box for image, _ in frames[1:]]
    np.testing.assert_allclose(boxes["packed"], boxes["torch"], atol=0.1)


def test_tracking_with_a_packed_file_imports_no_torch(tmp_path):
    write_video(tmp_path / "in.mp4", seed=3, frames=3)
    program = (
        "import sys; from rbsf.tools.track import main;"
        "code = main(['--video', 'in.mp4', '--init', '120,80,40,60', '--threads', '1']);"
        "assert 'torch' not in sys.modules, 'torch was imported'; sys.exit(code)"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(
        command, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "in_tracked.mp4").is_file()
