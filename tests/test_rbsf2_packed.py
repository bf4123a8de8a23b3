"""RB-SF 2 from a file: packed and PyTorch give the same boxes, and wrong files are refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from requirements import needs, peers
from test_rbsf2 import SMALL, trained

from rbsf.datasets.synthetic.videos import make_sequence
from rbsf.engine.cpu import available_isas
from rbsf.engine.file import read_packed, write_packed
from rbsf.engine.graph import PackedModel
from rbsf.eval.trackers import parse_tracker
from rbsf.export.pack import export_search
from rbsf.models import build
from rbsf.tools.export import main as export
from rbsf.tools.track import main as track
from rbsf.tracker.anchor_free import AnchorFree
from rbsf.tracker.loading import BOXES, RESPONSES, kind_of, load_network, make_tracker, update_all
from rbsf.tracker.rbsf2 import PackedNetwork, TorchNetwork, try_network
from rbsf.weights import save_weights


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with net.safetensors and its packed files."""
    folder = tmp_path_factory.mktemp("rbsf2")
    weights, packed = folder / "net.safetensors", folder / "net-packed.safetensors"
    net = trained(build("rbsf2", **SMALL))  # type: ignore[arg-type]
    save_weights(net, "rbsf2", weights, {"seed": 0})
    export(["--weights", str(weights), "--out", str(packed)])
    return folder


def crops() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    return tuple(
        rng.integers(0, 256, (17, 17, 3), np.uint8).repeat(16, 0).repeat(16, 1)[:s, :s]
        for s in (127, 255)
    )  # type: ignore[return-value]


@pytest.mark.parametrize("isa", available_isas())
def test_answers_are_pytorchs_to_the_bit(files: Path, isa: str) -> None:
    exemplar, region = (np.ascontiguousarray(crop) for crop in crops())
    packed = PackedNetwork(files / "net-packed.safetensors", isa=isa)
    own = load_network(files / "net.safetensors", "cpu", engine="torch")
    assert isinstance(own, TorchNetwork)
    found, expected = (net.answer(net.learn(exemplar), region) for net in (packed, own))  # type: ignore[attr-defined]
    np.testing.assert_array_equal(found.target, expected.target)
    np.testing.assert_array_equal(found.sides, expected.sides)
    assert found.target.shape == (15, 15)
    assert found.sides.shape == (4, 15, 15)
    assert found.target.std() > 0.01


def test_a_template_changes_the_answer(files: Path) -> None:
    net = PackedNetwork(files / "net-packed.safetensors")
    exemplar, region = (np.ascontiguousarray(crop) for crop in crops())
    templates = [net.learn(crop) for crop in (exemplar, 255 - exemplar)]
    one, other = (net.answer(template, region) for template in templates)
    assert not np.array_equal(one.target, other.target)
    again = net.answer(templates[0], region)  # what both share has not changed
    np.testing.assert_array_equal(one.target, again.target)


def test_boxes_are_the_same_packed_or_not(files: Path) -> None:
    frames = [image for image, _ in make_sequence(0, 6)]
    boxes = []
    for name, engine in (
        ("net-packed", "auto"),
        ("net", "packed"),
        ("net", "torch"),
        ("net-packed", "torch"),
    ):
        spec = parse_tracker(str(files / f"{name}.safetensors"), engine=engine)
        tracker = spec.build()
        assert isinstance(tracker, AnchorFree)
        tracker.init(frames[0], (40, 30, 30, 24))
        boxes.append([tracker.update(frame).box for frame in frames[1:]])
    for found in boxes[1:]:
        np.testing.assert_array_equal(found, boxes[0])


def test_the_command_tracks_several_targets(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import cv2

    for number, (image, _) in enumerate(make_sequence(0, 5)):
        cv2.imwrite(str(tmp_path / f"{number}.png"), image[..., ::-1])
    flags = ["--video", str(tmp_path), "--weights", str(files / "net-packed.safetensors")]
    flags += ["--init", "40,30,30,24", "--init", "60,50,20,20"]
    assert not track([*flags, "--no-out", "--boxes", str(tmp_path / "boxes.csv")])
    out = capsys.readouterr().out
    assert "network: net-packed.safetensors, packed engine" in out
    assert "per frame decode" in out
    assert len((tmp_path / "boxes.csv").read_text().splitlines()) == 1 + 2 * 5


def test_trackers_of_one_network_go_together(files: Path) -> None:
    frames = [image for image, _ in make_sequence(0, 3)]
    spec = parse_tracker(str(files / "net.safetensors"))
    net = PackedNetwork(files / "net-packed.safetensors")
    trackers = [make_tracker(net, spec.config) for _ in range(2)]
    for number, tracker in enumerate(trackers):
        tracker.init(frames[0], (40 + 20 * number, 30, 30, 24))
    together = update_all(trackers, frames[1])
    alone = make_tracker(net, spec.config)
    alone.init(frames[0], (40, 30, 30, 24))
    np.testing.assert_array_equal(together[0].box, alone.update(frames[1]).box)


def test_a_packed_file_says_what_it_is(files: Path) -> None:
    assert kind_of(files / "net-packed.safetensors") is BOXES
    assert kind_of(files / "net.safetensors") is BOXES
    assert kind_of(Path(__file__)) is RESPONSES
    assert read_packed(files / "net-packed.safetensors").info["seed"] == 0


@pytest.mark.parametrize("isa", available_isas())
def test_presence_is_pytorchs_to_the_bit(isa: str) -> None:
    exemplar, region = (np.ascontiguousarray(crop) for crop in crops())
    net = trained(build("rbsf2", presence=True, **SMALL))  # type: ignore[arg-type]
    exported = export_search(net)
    exported.compare().check()
    packed, own = PackedNetwork(exported.packed, isa=isa), TorchNetwork(net)
    found = packed.learn(exemplar)(region[None])
    with torch.inference_mode():
        expected = net.head(own._features(region), own.learn(exemplar)).numpy()
    assert found.shape == (1, 6, 15, 15)
    np.testing.assert_array_equal(found, expected)
    assert found[0, 5].std() > 0.001


@pytest.mark.parametrize("method", ["bireal", "float"])
def test_onnx_graphs_answer_alike(
    method: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """ONNX Runtime gives the same, of the float twin as well."""
    pytest.importorskip("onnxruntime", reason=needs("onnxruntime", "it is not installed"))
    net = trained(build("rbsf2", **SMALL | {"method": method}))  # type: ignore[arg-type]
    weights = tmp_path / "net.safetensors"
    save_weights(net, "rbsf2", weights)
    export(["--weights", str(weights), "--out", str(tmp_path / "x.onnx"), "--format", "onnx"])
    assert capsys.readouterr().out.count("correlation 1.0000") == 2
    pair = f"{tmp_path / 'x_backbone.onnx'},{tmp_path / 'x_head.onnx'}"
    tracker = parse_tracker(f"onnx:{pair}").build()
    assert isinstance(tracker, AnchorFree)
    exemplar, region = (np.ascontiguousarray(crop) for crop in crops())
    networks = (tracker.network, TorchNetwork(net))
    found, expected = (network.answer(network.learn(exemplar), region) for network in networks)
    # Real sums are added in another order, which may round a value between two steps to the
    # other step.
    allowed = 0.002 if method == "float" else 0
    assert np.abs(found.target - expected.target).mean() <= allowed
    assert np.abs(np.log(found.sides / expected.sides)).mean() <= allowed


def test_a_pair_of_graphs_in_8_bits_answers_about_the_same(
    files: Path, real_data: Path, tmp_path: Path
) -> None:
    """RB-SF 2 and NanoTrack find the target with about the same probability in 8 bits."""
    pytest.importorskip("onnxruntime", reason=needs("onnxruntime", "it is not installed"))
    from benchmarks.quantise_pair import main as quantise
    from rbsf.tracker.onnx_pair import open_pair

    weights = str(files / "net.safetensors")
    export(["--weights", weights, "--out", str(tmp_path / "own.onnx"), "--format", "onnx"])
    pairs = {
        "own": (tmp_path / "own_backbone.onnx", tmp_path / "own_head.onnx"),
        "nano": peers(real_data, "nano3_backbone.onnx", "nano3_head.onnx"),
    }
    exemplar, region = (np.ascontiguousarray(crop) for crop in crops())
    for name, pair in pairs.items():
        out = tmp_path / name
        flags = ["--data", str(real_data / "OTB" / "David"), "--crops", "4", "--out", str(out)]
        quantise(["--pair", ",".join(map(str, pair)), *flags])
        networks = open_pair(*pair), open_pair(out / "backbone.onnx", out / "head.onnx")
        whole, coarse = (net.answer(net.learn(exemplar), region) for net in networks)
        assert sum(file.stat().st_size for file in out.iterdir()) < sum(
            file.stat().st_size for file in pair
        )
        assert 0 < np.abs(coarse.target - whole.target).mean() < 0.1


def changed(files: Path, path: Path, **info: object) -> Path:
    packed = read_packed(files / "net-packed.safetensors")
    write_packed(path, replace(packed, info=packed.info | info))
    return path


def test_mistakes_of_a_user_are_named(files: Path, tmp_path: Path) -> None:
    for info in ({"template": "nowhere"}, {"template_scale": "1"}, {"template": "backbone.stem.0"}):
        with pytest.raises(ValueError, match="has no template to set; export it again"):
            load_network(changed(files, tmp_path / "bad.safetensors", **info))
    packed = files / "net-packed.safetensors"
    with pytest.raises(ValueError, match="--precision bfloat16: RB-SF 2 counts in whole numbers"):
        load_network(files / "net.safetensors", precision="bfloat16", engine="torch")
    with pytest.raises(ValueError, match="the packed engine runs on the CPU; add --engine torch"):
        load_network(packed, "cuda")
    (tmp_path / "scales.yaml").write_text("scales: 3\n")
    flags = ["--video", str(tmp_path), "--init", "1,1,9,9"]
    flags += ["--weights", str(files / "net.safetensors")]
    with pytest.raises(ValueError, match="scales"):
        track([*flags, "--constants", str(tmp_path / "scales.yaml")])


def test_other_maps_are_refused(files: Path) -> None:
    packed = read_packed(files / "net-packed.safetensors")
    last = packed.nodes[-2]
    fewer = replace(last, tensors={key: array[:4] for key, array in last.tensors.items()})
    network = PackedNetwork(replace(packed, nodes=(*packed.nodes[:-2], fewer, packed.nodes[-1])))
    message = r"gives \(4, 15, 15\), expected \(5 or 6, rows, columns\)"
    with pytest.raises(ValueError, match=message):
        try_network(network)


def test_a_template_of_other_cells_is_refused(files: Path) -> None:
    packed = read_packed(files / "net-packed.safetensors")
    nodes = list(packed.nodes)
    (place,) = [i for i, node in enumerate(nodes) if node.name == "head.correlation"]
    fewer = {key: nodes[place].tensors[key][:9] for key in ("weight", "bias")}
    nodes[place] = replace(nodes[place], tensors=fewer)
    with pytest.raises(ValueError, match=r"expected float32 \[9\]"):
        PackedModel(packed.model, packed.task, tuple(nodes), packed.info)
