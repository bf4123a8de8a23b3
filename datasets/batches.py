"""How an epoch is divided into batches, and these over processes."""

from __future__ import annotations

from collections.abc import Iterator


def count_batches(
    items: int, batch_size: int, world: int = 1, train: bool = True, unit: str = "image"
) -> int:
    """Number of batches that one rank (evaluation: rank 0) has in a pass over `items` items.

    See `shares`. `unit` is what an item is called. Raises ValueError for a `batch_size` below 1,
    and if a training's items do not fill one batch on every rank.
    """
    if batch_size < 1 or world < 1:
        raise ValueError(f"batch_size {batch_size}, {world} processes: give at least 1")
    on_all_ranks = batch_size * world
    if not train:
        return -(-items // on_all_ranks)  # rounded up
    if items < on_all_ranks:
        lack = f"{items} {unit}s do not fill {world} x {batch_size}"
        raise ValueError(f"{lack}; give a smaller batch or more {unit}s")
    return items // on_all_ranks


def shares(
    items: int,
    batch_size: int,
    start: int,
    rank: int,
    world: int,
    train: bool = True,
    unit: str = "image",
) -> Iterator[slice]:
    """The batches of one rank, from its batch `start` on, as parts of an epoch's order.

    The ranks take turns, batch by batch. In training, every batch has `batch_size` items and every
    rank has the same number of batches; the remaining items are left out. In evaluation, every
    item comes once; the last batch may be smaller, and ranks may differ by one batch. Raises
    ValueError for numbers out of range.
    """
    count = count_batches(items, batch_size, world, train, unit)
    if not 0 <= rank < world:
        raise ValueError(f"rank is {rank} of {world}; give one from 0 to {world - 1}")
    if not 0 <= start <= count:
        raise ValueError(f"start is {start}; an epoch has batches 0 to {count}")
    firsts = ((batch * world + rank) * batch_size for batch in range(start, count))
    return (slice(first, min(first + batch_size, items)) for first in firsts if first < items)
