"""Times the layers of a packed tracker one by one, for `engine_speed.py --layers`."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.sides import wake
from rbsf.eval.tables import Cell, Table, number

if TYPE_CHECKING:
    import numpy as np

Times = dict[str, list[list[float]]]  # instruction set -> round -> milliseconds of each layer
HEADS = ("binary ones", "1e12 products/s", "of the limit", "with XOR and sum")


def layer_table(weights: Path, crops: np.ndarray, rounds: int) -> str:
    """A table of each layer's median milliseconds on one thread, for crops uint8 `[N, S, S, 3]`.

    Further columns have the milliseconds of all binary layers, their products per second, and the
    share of the limit of `vpopcntq`, alone and with an XOR and a sum each.
    """
    import numpy as np

    from rbsf.engine.bit_layout import products
    from rbsf.engine.cpu import available_isas
    from rbsf.engine.run import Engine

    engines = {isa: Engine(weights, isa=isa) for isa in available_isas() if isa != "numpy"}
    times, (alone, whole) = _measure(engines, crops, rounds)
    model = next(iter(engines.values())).model
    maps = model.maps_for(*crops.shape[1:3])
    convs = [node for node in model.nodes if node.op in ("conv_u8", "conv_bits")]
    binary = sum(len(crops) * products(node) * prod(maps[node.name].shape) for node in convs[1:])
    heads = [f"layers of {len(crops)} crops, ms", *(node.name for node in convs), *HEADS]
    rows = []
    for isa, found in times.items():
        each = np.median(found, axis=0)  # [layers]
        spent = each[1:].sum()
        rate = binary / spent * 1000
        figures = [number(value, ".2f") for value in (*each, spent, rate / 1e12)]
        shares = [number(rate / limit, ".0%") for limit in (alone, whole)]
        rows.append([Cell(isa), *figures, *shares])
    return f"{Table('', heads, rows)}\n"


def _measure(engines: dict, crops: np.ndarray, rounds: int) -> tuple[Times, tuple[float, float]]:
    """Milliseconds of each layer, and the limits of this core in products per second.

    The limits are those of `vpopcntq` alone and with an XOR and a sum; nan without AVX-512.
    """
    import numpy as np
    from tqdm import tqdm

    from rbsf.engine import _native  # type: ignore[attr-defined]

    times: Times = {isa: [] for isa in engines}
    rates = []
    for _ in tqdm(range(rounds), desc="layers", unit="round"):
        for isa, engine in engines.items():
            wake(lambda engine=engine: engine(crops))  # type: ignore[misc]
            times[isa].append([1000 * seconds for seconds in engine.node_seconds(crops).values()])
        if "avx512" in engines:
            rates.append(_native.popcount_rates())
    if not rates:
        return times, (np.nan, np.nan)
    alone, whole = 512 * np.median(rates, axis=0)  # a word has 512 bits
    return times, (alone, whole)
