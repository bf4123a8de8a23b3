"""Training in several processes started by torchrun.  With one process every function here does
nothing.

Gradients are averaged by hand after the backward pass: Algorithm 1 has several networks and
optimizers a batch, which DistributedDataParallel's wrapper around one forward pass does not fit.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn


class Process(NamedTuple):
    """This process: its number, how many there are, its device."""

    rank: int
    world: int
    device: torch.device


ALONE = Process(0, 1, torch.device("cpu"))


def start(device: torch.device) -> Process:
    """Join the processes torchrun started, if it did."""
    if "RANK" not in os.environ:
        return Process(0, 1, device)
    cuda = device.type == "cuda"
    # The others wait while process 0 cuts out the training crops of a large dataset, which can take
    # hours.
    dist.init_process_group("nccl" if cuda else "gloo", timeout=timedelta(hours=24))
    if cuda:
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    return Process(dist.get_rank(), dist.get_world_size(), device)


def active() -> bool:
    """Whether there is more than this process."""
    return dist.is_available() and dist.is_initialized()


def wait_for_all() -> None:
    """Wait until every process is here: one that left while another still writes has been seen to
    abort.
    """
    if active():
        dist.barrier()


def stop() -> None:
    """Leave the group, if this process joined one."""
    if active():
        dist.destroy_process_group()


@contextmanager
def first_process_first(rank: int) -> Iterator[None]:
    """Context that process 0 goes through before the others, as to write what they read."""
    if active() and rank > 0:
        dist.barrier()
    yield
    if active() and rank == 0:
        dist.barrier()


def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Replace the gradients of `parameters` by their mean over processes."""
    if active():
        gradients = [p.grad for p in parameters if p.grad is not None]
        _average(gradients)


def average_buffers(modules: Iterable[nn.Module]) -> None:
    """Replace the float buffers (batch-norm statistics) of `modules` by their mean over processes."""
    if active():
        _average([b for m in modules for b in m.buffers() if b.is_floating_point()])


def share_weights(modules: Iterable[nn.Module]) -> None:
    """Give every process the weights and buffers of process 0."""
    if active():
        for module in modules:
            for tensor in (*module.parameters(), *module.buffers()):
                dist.broadcast(tensor.data, 0)


def any_process(flag: bool) -> bool:
    """Whether `flag` is set in any process, so that all of them act on it together."""
    if not active():
        return flag
    box = torch.tensor(float(flag))
    if dist.get_backend() == "nccl":
        box = box.cuda()
    dist.all_reduce(box)
    return bool(box.item())


def _average(tensors: list[Tensor]) -> None:
    flat = torch.cat([t.reshape(-1) for t in tensors])  # one message, not one per tensor
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))
