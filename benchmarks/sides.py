"""Shared parts of timings of several sides: interleaved rounds, and the ONNX Runtime sides."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from rbsf.export.pack import Exported

Timed = Callable[[], object]
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
    """ONNX Runtime sides for a float network: float32 and 8 bits (static, QDQ, per channel).

    `images` are uint8 `[N, H, W, C]`. `export` exports the network, unless its graphs are already
    in `folder`. Returns no side if ONNX Runtime is not installed.
    """
    try:
        import onnxruntime as ort
    except ImportError:
        return {}
    pixels = images.transpose(0, 3, 1, 2).astype("float32")  # [N, C, H, W]
    files = {name: folder / f"{name}.onnx" for name in ("float32", "int8")}
    if not files["int8"].is_file():
        _write_graphs(export(), pixels, files["float32"], files["int8"])
    sides: dict[str, Timed] = {}
    for name, file in files.items():
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        session = ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        sides[f"ONNX Runtime {name}"] = lambda session=session: session.run(None, {"image": pixels})  # type: ignore[misc]
    return sides


def _write_graphs(exported: Exported, pixels: np.ndarray, float32: Path, int8: Path) -> None:
    """Write a network's graph in float32 and in 8 bits, calibrated on `pixels`."""
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    from rbsf.export.onnx import network_graph

    class Calibration(CalibrationDataReader):
        def __init__(self) -> None:
            self.rows: Iterator[dict] = iter([{"image": pixels}])

        def get_next(self) -> dict | None:
            return next(self.rows, None)

    prepared = float32.with_name("prepared.onnx")
    onnx.save(network_graph(exported.packed), str(float32))
    quant_pre_process(str(float32), str(prepared))
    quantize_static(str(prepared), str(int8), Calibration(), per_channel=True)
