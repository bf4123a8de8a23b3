"""Shared parts of timings of several sides: interleaved rounds, and the ONNX Runtime sides."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from rbsf.export.compare import Exported

Timed = Callable[[], object]
Inputs = dict[str, "np.ndarray"]  # of a graph, by name
WARM_UP = 3  # rounds that do not count
# Seconds of pause before each side. The previous side's threads spin that long and occupy cores.
PAUSE = 0.2
# Seconds of untimed calls after the pause. A sleeping core needs that long to reach full speed.
WAKE = 0.1


def medians(sides: dict[str, Timed], rounds: int) -> dict[str, float]:
    """Median milliseconds of each side over interleaved rounds."""
    import numpy as np
    from tqdm import tqdm

    times: dict[str, list[float]] = {name: [] for name in sides}
    for number in tqdm(range(WARM_UP + rounds), desc="backbones", unit="round"):
        for name, side in sides.items():
            spent = time_after_pause(side, side)
            if number >= WARM_UP:
                times[name].append(spent)
    return {name: float(np.median(values)) for name, values in times.items()}


def time_after_pause(side: Timed, untimed: Timed) -> float:
    """Milliseconds of a call of `side`, after a pause and untimed calls of `untimed`."""
    time.sleep(PAUSE)
    wake(untimed)
    start = time.perf_counter()
    side()
    return 1000 * (time.perf_counter() - start)


def wake(side: Timed) -> None:
    """Call a side repeatedly, until the core that runs it is awake."""
    begin = time.perf_counter()
    while time.perf_counter() - begin < WAKE:
        side()


def onnx_sides(
    export: Callable[[], Exported], images: np.ndarray, threads: int, folder: Path
) -> dict[str, Timed]:
    """ONNX Runtime sides for a float network, in float32 and in 8 bits.

    `images` are uint8 `[N, H, W, C]`. `export` exports the network, unless its graphs are already
    in `folder`. Returns no side if ONNX Runtime is not installed.
    """
    try:
        import onnxruntime  # noqa: F401
    except ImportError:
        return {}
    image = {"image": onnx_pixels(images)}
    files = [folder / f"{name}.onnx" for name in ("float32", "int8")]
    if not files[1].is_file():
        write_graphs(export(), [images], *files)
    sessions = {f"ONNX Runtime {file.stem}": onnx_session(file, threads) for file in files}
    return {name: partial(session.run, None, image) for name, session in sessions.items()}


def onnx_session(file: Path, threads: int) -> Any:
    """ONNX Runtime's session of a graph, on the CPU."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    return ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def onnx_pixels(images: np.ndarray) -> np.ndarray:
    """Images uint8 `[N, H, W, C]` as a classifier's graph takes them: float32 `[N, C, H, W]`."""
    return images.transpose(0, 3, 1, 2).astype("float32")


def write_graphs(
    exported: Exported, batches: Iterable[np.ndarray], float32: Path, int8: Path
) -> None:
    """Write a network's graph in float32 and in 8 bits.

    The ranges of maps are measured on batches of images, uint8 `[N, H, W, C]`.
    """
    import onnx

    from rbsf.export.onnx import network_graph

    onnx.save(network_graph(exported.packed), str(float32))
    quantise(float32, int8, ({"image": onnx_pixels(images)} for images in batches))


def quantise(source: Path, target: Path, examples: Iterable[Inputs], **options: Any) -> None:
    """Write the graph `source` in 8 bits (static, QDQ, per channel) as `target`.

    The ranges of maps are measured on `examples`, inputs by name. `options` are those of ONNX
    Runtime's `quant_pre_process`.
    """
    from onnxruntime.quantization import CalibrationDataReader, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        """The examples, one by one."""

        def __init__(self) -> None:
            self.rest = iter(examples)

        def get_next(self) -> Inputs | None:
            return next(self.rest, None)

    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(str(source), str(prepared), **options)
        quantize_static(str(prepared), str(target), Reader(), per_channel=True)
