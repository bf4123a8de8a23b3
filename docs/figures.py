"""Draw the figures of the guides from the shipped weights and made-up frames: docs/figures/*.png.

    python docs/figures.py

Only what a figure shows is trained: RBConv's C and filters by the kernel loss alone, and one
discriminator. On one machine, every run gives the same figures. Backgrounds are transparent, and
words and lines gray, for light and for dark pages.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

from rbsf.cost import count
from rbsf.datasets.synthetic.videos import make_sequence
from rbsf.maps import MapNorm, MapRecorder, measure_maps
from rbsf.methods.rbcn import RBConv2d
from rbsf.models import build
from rbsf.shipped import find_weights
from rbsf.tracker.geometry import (
    EXEMPLAR_SIZE,
    SEARCH_SIZE,
    box_center,
    crop_square,
    exemplar_side,
)
from rbsf.tracker.task import cross_correlate
from rbsf.train.adversarial import DiscriminatorStack, discriminator_loss, pool
from rbsf.weights import load_weights

FOLDER = Path(__file__).parent / "figures"
GRAY = "#808080"
STYLE = {
    "savefig.transparent": True,
    "text.color": GRAY,
    "axes.labelcolor": GRAY,
    "axes.edgecolor": GRAY,
    "xtick.color": GRAY,
    "ytick.color": GRAY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": mpl.cycler(color=["#3d85c6", "#e07b00", "#5aa02c"]),
    "legend.frameon": False,
    "font.size": 10,
}
SEED = 5  # seed of the made-up video
KERNEL_STEPS = 60  # steps of descent on the kernel loss
FIRST_FRAMES, LATER_FRAMES = 16, 8  # the discriminator learns from the first, then judges the later
DISCRIMINATOR_STEPS = 300


def main() -> None:
    """Draw all figures."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    FOLDER.mkdir(exist_ok=True)
    teacher, student = (load_weights(find_weights(name))[0] for name in ("siamfc", "rbsf-train"))
    crops = made_up_crops(FIRST_FRAMES + LATER_FRAMES)
    with mpl.rc_context(STYLE):
        save(kernel_loss(teacher), "kernel-loss")
        save(learned_scales(teacher), "scales")
        save(turned_bits(teacher, student), "turned-bits")
        save(feature_maps(teacher, student, crops), "features")
        save(discriminator(teacher, student, crops[1]), "discriminator")
        save(price_of_a_bit(teacher, student), "bit")


def save(figure: Figure, name: str) -> None:
    """Write docs/figures/NAME.png."""
    figure.savefig(FOLDER / f"{name}.png", dpi=100)
    print(f"docs/figures/{name}.png")


def made_up_crops(frames: int) -> tuple[Tensor, Tensor]:
    """The first target's crop `[1, 3, 127, 127]`, and a search crop of each later frame.

    Search crops are `[N, 3, 255, 255]`; all are float RGB from 0 to 255.
    """
    video = list(make_sequence(SEED, frames + 1))
    center, side = box_center(video[0][1]), exemplar_side(video[0][1][2:])
    exemplar = crop_square(video[0][0], center, side, EXEMPLAR_SIZE)
    wide = side * SEARCH_SIZE / EXEMPLAR_SIZE
    searches = [crop_square(image, box_center(box), wide, SEARCH_SIZE) for image, box in video[1:]]
    return as_input([exemplar]), as_input(searches)


def as_input(crops: list[np.ndarray]) -> Tensor:
    """Images `[S, S, 3]` uint8 as a network takes them, `[N, 3, S, S]` float."""
    return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float()


def rectified(conv: nn.Conv2d, steps: int) -> RBConv2d:
    """RBConv with a real layer's filters, after `steps` down the kernel loss alone (Eq. 3).

    The filters are divided by three times their deviation, as at the start of a training.
    """
    layer = RBConv2d.from_conv(conv)
    layer.set_weight(conv.weight.detach() / (3 * conv.weight.detach().std()))
    descent = torch.optim.SGD(
        [
            {"params": [layer.weight], "lr": 0.05},
            {"params": [layer.C], "lr": 0.5 / len(conv.weight)},
        ]
    )
    for _ in range(steps):
        descent.zero_grad()
        layer.kernel_loss().backward()
        descent.step()
    return layer


def convolutions(net: nn.Module) -> dict[str, nn.Conv2d]:
    """conv2 to conv5 of a SiamFC backbone, real or binary."""
    layers = {f"conv{i + 1}": net.get_submodule(f"layers.{i}.conv") for i in range(1, 5)}
    return {name: layer for name, layer in layers.items() if isinstance(layer, nn.Conv2d)}


def kernel_loss(teacher: nn.Module) -> Figure:
    """Histograms of the filters of conv2 during descent on the kernel loss."""
    figure = Figure(figsize=(9, 2.8), layout="constrained")
    for axes, steps in zip(figure.subplots(1, 3, sharey=True), (0, 20, KERNEL_STEPS), strict=True):
        layer = rectified(convolutions(teacher)["conv2"], steps)
        axes.hist(layer.weight.detach().flatten(), bins=121, range=(-1, 1))
        scale = layer.C.mean().item()
        axes.axvline(-scale, color="#e07b00", linestyle="--")
        axes.axvline(scale, color="#e07b00", linestyle="--", label=f"C* = {scale:.3f}")
        axes.set(title=f"{steps} steps", xlabel="latent weight", yticks=[])
        axes.legend(loc="upper right")
    return figure


def learned_scales(teacher: nn.Module) -> Figure:
    """C of each layer by place in the window, the mean over its input channels."""
    figure = Figure(figsize=(9, 2.6), layout="constrained")
    for axes, (name, conv) in zip(
        figure.subplots(1, 4), convolutions(teacher).items(), strict=True
    ):
        matrix = rectified(conv, KERNEL_STEPS).C.detach().mean((0, 1))  # [k, k]
        axes.imshow(matrix, cmap="cividis", vmin=0.18, vmax=0.32)
        for (row, column), value in np.ndenumerate(matrix.numpy()):
            ink = "white" if value < 0.25 else "black"
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=ink, size=8)
        axes.set(title=f"{name}: C* = {matrix.mean():.3f}")
        axes.axis("off")
    return figure


def turned_bits(teacher: nn.Module, student: nn.Module) -> Figure:
    """The share of weights whose bit differs from the sign of the float weight, by its size."""
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots()
    edges = np.linspace(0, 2, 21)
    bits = convolutions(student)
    for name, conv in convolutions(teacher).items():
        weight = conv.weight.detach()
        size = (weight.abs() / weight.std()).flatten()
        turned = (torch.sign(weight) != torch.sign(bits[name].weight)).flatten()
        total, _ = np.histogram(size, edges)
        changed, _ = np.histogram(size[turned], edges)
        share = 100 * changed / total
        label = f"{name}: {100 * turned.float().mean():.1f}% in all"
        style = "--" if name == "conv5" else "-"
        axes.plot((edges[1:] + edges[:-1]) / 2, share, style, label=label)
    axes.set(xlabel="size of the float weight, in deviations of its layer", ylim=0)
    axes.set(ylabel="bits that differ from its sign, %")
    axes.legend()
    return figure


def feature_maps(teacher: nn.Module, student: nn.Module, crops: tuple[Tensor, Tensor]) -> Figure:
    """One channel of each layer, and the response, of both networks on one search crop."""
    exemplar, search = crops[0], crops[1][-1:]
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    grid = figure.subplots(2, 6)
    wanted: list[int] = []  # the channel of each layer that varies most in the teacher
    for row, name, net in zip(grid, ("float", "1 bit"), (teacher, student), strict=True):
        show(row[0], search[0].permute(1, 2, 0) / 255, f"{name}: crop")
        maps = block_outputs(net, search)
        wanted = wanted or [int(x.std((1, 2)).argmax()) for x in maps]
        for axes, layer, channel, x in zip(row[1:5], range(2, 6), wanted, maps, strict=True):
            show(axes, x[channel], f"conv{layer}, {channel}")
        with torch.no_grad():
            response = cross_correlate(net(exemplar), net(search))[0]
        show(row[5], response, "response")
    return figure


def block_outputs(net: nn.Module, search: Tensor) -> list[Tensor]:
    """The batch-normalised maps `[C, H, W]` of conv2 to conv5; for a float conv5, its sums."""
    recorder = MapRecorder(net, [f"layers.{i}.norm" for i in range(1, 5)])
    with torch.no_grad(), recorder.recording() as found:
        net(search)
    return [x[0] for _, x in found]


def show(axes: Axes, image: Tensor, title: str) -> None:
    """Draw a picture `[H, W, 3]` or a map `[H, W]`."""
    axes.imshow(image, cmap="magma")
    axes.set_title(title, size=9)
    axes.axis("off")


def discriminator(teacher: nn.Module, student: nn.Module, searches: Tensor) -> Figure:
    """The maps of conv3 that a discriminator sees, and the answers of a trained one."""
    point = "layers.2.norm"
    stats = measure_maps(student, teacher, lambda net, x: net(x), [searches[:FIRST_FRAMES]])
    norm = MapNorm(*stats[point])
    real, fake = (norm(pool(map_at(net, point, searches))) for net in (teacher, student))
    stack = DiscriminatorStack(1)
    learn(stack, real[:FIRST_FRAMES], fake[:FIRST_FRAMES])
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1.5, 1))
    channels = real[-1].std((1, 2)).argsort(descending=True)[:5]
    for row, name, maps in zip(left.subplots(2, 5), ("R", "T"), (real, fake), strict=True):
        for axes, channel in zip(row, channels, strict=True):
            show(axes, maps[-1, channel], f"{name}, channel {int(channel)}")
    axes = right.subplots()
    for name, maps in (("R: float", real), ("T: 1 bit", fake)):
        with torch.no_grad():
            answers = torch.sigmoid(stack(maps[FIRST_FRAMES:].reshape(1, -1, 8, 8))).flatten()
        axes.hist(
            answers, bins=40, range=(0, 1), alpha=0.6, label=f"{name}, mean {answers.mean():.2f}"
        )
    axes.set(xlabel="D(map): 1 says float, 0 says 1 bit", ylabel="maps of later frames")
    axes.legend()
    return figure


def map_at(net: nn.Module, point: str, searches: Tensor) -> Tensor:
    """The map `[N, C, H, W]` of one point."""
    recorder = MapRecorder(net, [point])
    with torch.no_grad(), recorder.recording() as found:
        net(searches)
    return found[0][1]


def learn(stack: DiscriminatorStack, real: Tensor, fake: Tensor) -> None:
    """Let the discriminator learn, from batches of 512 maps of each kind."""
    descent = torch.optim.Adam(stack.parameters(), 1e-3)
    both = torch.stack([real.flatten(0, 1), fake.flatten(0, 1)])  # [2, M, 8, 8]
    for _ in range(DISCRIMINATOR_STEPS):
        drawn = torch.randint(both.shape[1], (512,))
        real_logits, fake_logits = (stack(maps[drawn][None]) for maps in both)
        descent.zero_grad()
        discriminator_loss(real_logits, fake_logits).backward()
        descent.step()


def price_of_a_bit(teacher: nn.Module, student: nn.Module) -> Figure:
    """How much of the filters one bit loses, and how much it saves."""
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    losses, costs = figure.subplots(1, 2)
    convs = convolutions(teacher)
    draw_bars(
        losses,
        list(convs),
        {
            "one scale a layer (C*)": [lost(conv, (0, 1, 2, 3)) for conv in convs.values()],
            "one a place (C)": [lost(conv, (0,)) for conv in convs.values()],
            "one a filter (XNOR-Net)": [lost(conv, (1, 2, 3)) for conv in convs.values()],
        },
    )
    losses.set(title="lost of the filters' energy, %", ylim=(0, 62))
    names = ["conv1", *convs]
    shape = (3, SEARCH_SIZE, SEARCH_SIZE)
    float_layers = {layer.name: layer for layer in count(build("siamfc"), shape)}
    bit_layers = {layer.name: layer for layer in count(student, shape)}
    keys = [f"layers.{i}.conv" for i in range(5)]
    draw_bars(
        costs,
        names,
        {
            "float": [float_layers[key].multiplications / 1e6 for key in keys],
            "1 bit": [bit_layers[key].multiplications / 1e6 for key in keys],
        },
    )
    costs.set(title="millions of multiplications, one crop", yscale="log", ylim=(1, 4000))
    return figure


def lost(conv: nn.Conv2d, dims: tuple[int, ...]) -> float:
    """Percent of the energy of filters W lost in sign(W) times the means of |W| over `dims`."""
    weight = conv.weight.detach()
    kept = weight.sign() * weight.abs().mean(dims, keepdim=True)
    return float(100 * (weight - kept).square().sum() / weight.square().sum())


def draw_bars(axes: Axes, names: list[str], groups: dict[str, list[float]]) -> None:
    """Draw bars of several groups beside each other."""
    width = 0.8 / len(groups)
    for number, (label, values) in enumerate(groups.items()):
        places = np.arange(len(names)) + (number - (len(groups) - 1) / 2) * width
        axes.bar(places, values, width, label=label)
    axes.set_xticks(range(len(names)), names)
    axes.legend()


if __name__ == "__main__":
    main()
