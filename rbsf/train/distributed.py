"""Training in several processes started by torchrun.

With one process every function here does nothing.

Gradients are averaged explicitly after the backward pass: Algorithm 1 uses several networks and
optimizers per batch, which does not suit DistributedDataParallel, a wrapper around one forward
pass.
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
    """This process."""

    rank: int  # its number, from 0
    world: int  # how many processes there are
    device: torch.device


ALONE = Process(0, 1, torch.device("cpu"))


def start(device: torch.device) -> Process:
    """Join the processes that torchrun started, if it did."""
    if "RANK" not in os.environ:
        return Process(0, 1, device)
    cuda = device.type == "cuda"
    # The others wait while process 0 cuts crops from a large data set, which can take hours.
    dist.init_process_group("nccl" if cuda else "gloo", timeout=timedelta(hours=24))
    if cuda:
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    return Process(dist.get_rank(), dist.get_world_size(), device)


def active() -> bool:
    """Whether there are other processes besides this one."""
    return dist.is_available() and dist.is_initialized()


def wait_for_all() -> None:
    """Wait until every process has reached this point.

    Without this wait, processes that left while another was still writing have aborted.
    """
    if active():
        dist.barrier()


def stop() -> None:
    """Leave the group, if this process joined one."""
    if active():
        dist.destroy_process_group()


@contextmanager
def first_process_first(rank: int) -> Iterator[None]:
    """Context manager that process 0 passes first, to write files that the others read."""
    if active() and rank > 0:
        dist.barrier()
    yield
    if active() and rank == 0:
        dist.barrier()


def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Replace the gradients of `parameters` by their mean over processes."""
    if active():
        _average([p.grad for p in parameters if p.grad is not None])


def average_buffers(modules: Iterable[nn.Module]) -> None:
    """Replace float buffers (batch-norm statistics) of `modules` by their mean over processes."""
    if active():
        buffers = [buffer for module in modules for buffer in module.buffers()]
        _average([buffer for buffer in buffers if buffer.is_floating_point()])


def share_weights(modules: Iterable[nn.Module]) -> None:
    """Give every process the weights and buffers of process 0."""
    if not active():
        return
    for module in modules:
        for tensor in (*module.parameters(), *module.buffers()):
            dist.broadcast(tensor.data, 0)


def any_process(flag: bool) -> bool:
    """Whether `flag` is set in any process, so that all of them act on it together."""
    if not active():
        return flag
    count = torch.tensor(float(flag))
    if dist.get_backend() == "nccl":
        count = count.cuda()
    dist.all_reduce(count)
    return bool(count.item())


def _average(tensors: list[Tensor]) -> None:
    """Replace `tensors` by their mean over processes, in one message."""
    if not tensors:
        return
    flat = torch.cat([t.reshape(-1) for t in tensors])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))
