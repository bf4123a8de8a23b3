"""tools/classify.py: the classes of images and of a test set, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import ROOT
from requirements import needs
from torch import nn

from benchmarks import classifier_sides
from rbsf.conversion import binarize
from rbsf.datasets.images.in_memory import ArrayData
from rbsf.export.images import Images
from rbsf.export.pack import export_network
from rbsf.tools import classify
from rbsf.tools.recipes.classifier import input_of, open_data
from rbsf.tools.recipes.classifier_config import RESULT, ClassifierConfig
from rbsf.tracker.loading import load_network


def test_classify_names_the_classes_of_images(image_root, trained_resnet, capsys):
    packed = str(trained_resnet / "resnet18-packed.safetensors")
    images = [str(image_root / "val" / "dark"), str(image_root / "val" / "bright" / "0.png")]
    assert classify.main(["--weights", packed, "--top", "2", *images]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[2].startswith(images[1] + ": ")
    words = lines[0].replace(",", "").split()
    shares = [float(word.removesuffix("%")) for word in words if word.endswith("%")]
    assert sum(shares) == pytest.approx(100, abs=0.2)


def test_classify_goes_on_where_an_image_is_damaged(image_root, trained_resnet, tmp_path, capsys):
    packed = str(trained_resnet / "resnet18-packed.safetensors")
    cut = tmp_path / "cut.png"
    cut.write_bytes((image_root / "val" / "dark" / "0.png").read_bytes()[:60])
    whole = image_root / "val" / "bright" / "0.png"
    assert classify.main(["--weights", packed, str(cut), str(whole)]) == 1
    captured = capsys.readouterr()
    assert "cut.png is not an image, or is cut short" in captured.err
    assert len(captured.out.splitlines()) == 1


def test_classify_goes_on_where_an_image_is_missing(image_root, trained_resnet, tmp_path, capsys):
    packed = str(trained_resnet / "resnet18-packed.safetensors")
    (tmp_path / "empty").mkdir()
    paths = [tmp_path / "none.jpg", tmp_path / "empty", image_root / "val" / "bright" / "0.png"]
    assert classify.main(["--weights", packed, *map(str, paths)]) == 1
    captured = capsys.readouterr()
    assert f"error: no image {paths[0]}\nerror: {paths[1]} holds no images" in captured.err
    assert captured.out.startswith(f"{paths[2]}: ")


def test_classify_warns_of_files_that_it_leaves_out(image_root, trained_resnet, tmp_path, capsys):
    packed = str(trained_resnet / "resnet18-packed.safetensors")
    shutil.copy(image_root / "val" / "bright" / "0.png", tmp_path)
    for name in ("a.gif", "x.heic", "notes.txt", ".hidden.gif"):
        (tmp_path / name).touch()
    with pytest.warns(UserWarning, match=r"2 files .* are left out, such as a\.gif"):
        assert classify.main(["--weights", packed, str(tmp_path)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1


@pytest.mark.parametrize(("share", "taken"), [({"share": 1.0}, 32), ({"share": 0.5}, 16), ({}, 28)])
def test_loose_images_are_cut_as_those_of_the_training(share, taken, tmp_path):
    image = np.zeros((32, 32, 3), np.uint8)
    image[1:-1, 1:-1] = 255  # only a network that takes the whole image sees its black frame
    cv2.imwrite(str(tmp_path / "a.png"), image)
    seen = []

    def look(images):
        seen.append(images)
        return np.zeros((1, 2))

    images = classify.Input(taken, taken, 3, ["a", "b"], **share)
    network = classify.Classifier("net", look, images)
    assert classify.class_images(network, [tmp_path / "a.png"], 1) == 0
    first = (32 - taken) // 2
    np.testing.assert_array_equal(seen[0][0], image[first : 32 - first, first : 32 - first])


def test_weights_say_how_images_are_cut(image_root):
    config = ClassifierConfig(dataset="folder", root=str(image_root), size=32)
    assert input_of(open_data(config, torch.device("cpu"))[1])["share"] == 224 / 256
    images = torch.zeros(1, 1, 4, 4, dtype=torch.uint8)
    labels = torch.zeros(1, dtype=torch.int64)
    whole = ArrayData(images, labels, ("a",), (0.0,), (1.0,))
    assert input_of(whole)["share"] == 1


def test_classify_compares_packed_and_pytorch_on_a_test_set(
    image_root, trained_resnet, tmp_path, capsys
):
    flags = ["--weights", str(trained_resnet / "resnet18.safetensors")]
    flags += ["--dataset", "folder", "--root", str(image_root)]
    assert classify.main([*flags, "--compare", "--json", str(tmp_path / "figures.json")]) == 0
    figures = json.loads((tmp_path / "figures.json").read_text())
    result = json.loads((trained_resnet / RESULT).read_text())
    assert figures.pop("differing") == 0
    assert {values["top1"] for values in figures.values()} == {result["top1"]}
    assert "predictions that differ: 0 of 4" in capsys.readouterr().out


def test_the_benchmark_classes_all_test_images_by_all_sides(
    image_root, trained_resnet, tmp_path, capsys
):
    pytest.importorskip("onnxruntime", reason=needs("onnxruntime", "it runs the float network"))
    flags = ["--weights", str(trained_resnet / "resnet18-packed.safetensors")]
    flags += ["--float", str(trained_resnet / "resnet18.safetensors")]
    classifier_sides.main(
        [*flags, "--batch-size", "3", "--dataset", "folder", "--root", str(image_root)]
    )
    head, _, *rows = (row.split(" | ") for row in capsys.readouterr().out.splitlines())
    assert head[2] == "top-1, %"
    result = json.loads((trained_resnet / RESULT).read_text())
    assert {row[2] for row in rows[:-1]} == {f"{result['top1']:.2f}"}  # 8 bits may differ
    names = [row[0].removeprefix("| ") for row in rows]
    assert names[-2:] == [f"resnet18, {form}, ONNX Runtime" for form in ("float32", "int8")]
    other = shutil.copytree(image_root, tmp_path / "other")
    for split in ("train", "val"):
        (other / split / "dark").rename(other / split / "dim")
    with pytest.raises(
        ValueError, match=r"-packed\.safetensors was trained on other classes than those of folder"
    ):
        classifier_sides.main([*flags, "--dataset", "folder", "--root", str(other)])


def test_classify_writes_its_figures_over_no_weights(image_root, trained_resnet, tmp_path, capsys):
    weights = tmp_path / "resnet18.safetensors"
    weights.write_bytes((trained_resnet / "resnet18.safetensors").read_bytes())
    flags = ["--weights", str(weights), "--dataset", "folder", "--root", str(image_root)]
    with pytest.raises(ValueError, match=r"--json .*resnet18\.safetensors is the input itself"):
        classify.main([*flags, "--json", str(weights)])
    with pytest.raises(SystemExit):
        classify.main(["--weights", str(weights), str(image_root), "--json", "figures.json"])
    assert "--json needs --dataset" in capsys.readouterr().err


def test_classify_refuses_what_it_cannot_use(image_root, trained_resnet, tmp_path, capsys):
    packed = str(trained_resnet / "resnet18-packed.safetensors")
    tracker = str(ROOT / "weights" / "rbsf.safetensors")
    for flags, message in (
        (
            ["--weights", packed, "--engine", "torch", str(image_root)],
            "is packed; give the weights file",
        ),
        (["--weights", tracker, str(image_root)], "a packed tracker, no classifier; give"),
        (["--weights", str(tmp_path / "none"), str(image_root)], "no weights file"),
    ):
        with pytest.raises((ValueError, OSError), match=message):
            classify.main(flags)
    with pytest.raises(SystemExit):
        classify.main(["--weights", packed])
    assert "give either images or --dataset" in capsys.readouterr().err


def test_a_test_set_of_other_classes_is_refused(image_root, trained_resnet, tmp_path):
    packed = str(trained_resnet / "resnet18-packed.safetensors")
    other = shutil.copytree(image_root, tmp_path / "other")
    for split in ("train", "val"):
        (other / split / "dark").rename(other / split / "dim")
    with pytest.raises(ValueError, match="was trained on other classes"):
        classify.main(["--weights", packed, "--dataset", "folder", "--root", str(other)])


def test_a_classifier_is_no_tracker(trained_resnet):
    for name, message in (
        ("resnet18", "holds no tracker"),
        ("resnet18-packed", "classifier, no tracker"),
    ):
        with pytest.raises(ValueError, match=message):
            load_network(trained_resnet / f"{name}.safetensors")


def own_network(path: Path, shape: tuple[int, int, int], **options: object) -> nn.Module:
    """A network of a user's own, written as a packed file."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(shape[2], 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3)]
    ends = [nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4)]
    net = nn.Sequential(*layers, *ends)
    binarize(net, "xnor")
    export_network(net.eval(), path, "mine", shape, **options)  # type: ignore[arg-type]
    return net


@pytest.mark.parametrize("shape", [(24, 24, 3), (20, 30, 3), (28, 28, 1)])
def test_a_network_of_ones_own_classes_images(shape, image_root, tmp_path, capsys):
    path, mean, std = tmp_path / "mine-packed.safetensors", [120.0], [60.0]
    net = own_network(path, shape, mean=mean, std=std)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (*shape[:2], 3), np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), pixels)
    assert classify.main(["--weights", str(path), "--top", "4", str(tmp_path / "a.png")]) == 0
    shown = capsys.readouterr().out.strip().removeprefix(f"{tmp_path / 'a.png'}: ").split(", ")
    image = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
    if shape[2] == 1:
        image = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None]
    logits = torch.from_numpy(Images(shape, mean, std).logits(net, image[None])[0])
    for text in shown:
        name, share = text.split()
        expected = 100 * float(logits.softmax(0)[int(name)])
        assert float(share.removesuffix("%")) == pytest.approx(expected, abs=0.1)
    assert sorted(text.split()[0] for text in shown) == ["0", "1", "2", "3"]


def test_a_network_of_ones_own_names_its_classes(image_root, tmp_path, capsys):
    path, image = tmp_path / "mine.safetensors", str(image_root / "val" / "dark" / "0.png")
    own_network(path, (32, 32, 3), info={"classes": ["a", "b", "c", "d"]})
    assert classify.main(["--weights", str(path), "--top", "1", image]) == 0
    assert capsys.readouterr().out.split()[1] in "abcd"
    data = ["--dataset", "folder", "--root", str(image_root)]
    with pytest.raises(ValueError, match="was trained on other classes"):
        classify.main(["--weights", str(path), *data])
    own_network(path, (32, 30, 3))
    with pytest.raises(ValueError, match="takes images of 30 x 32; --dataset gives square ones"):
        classify.main(["--weights", str(path), *data])
    own_network(path, (32, 32, 3), info={"classes": ["a"]})
    with pytest.raises(ValueError, match="its info's classes are no list of 4 names"):
        classify.main(["--weights", str(path), image])
    own_network(path, (32, 32, 2))
    with pytest.raises(ValueError, match="takes images of 2 channels; give one that takes 1 or 3"):
        classify.main(["--weights", str(path), image])
    maps = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval()
    export_network(maps, path, "maps", (32, 32, 3))
    with pytest.raises(ValueError, match=r"gives .* for an image; give one that gives each class"):
        classify.main(["--weights", str(path), image])
