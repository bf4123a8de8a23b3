"""Does a GPU compute what the CPU computes?  One training step, R+G+B, of ResNet-18 on both, and 20
of them.

Distances are |a - b| / |b| over all numbers of a kind.  Signs make a step discontinuous: a value
next to zero that is rounded otherwise turns a sign, and the step differs by more than roundings.
So the bounds are exact ones in 64 bits, where this does not happen, and in 32 bits what the CPU's
own arithmetic leaves open.  Exit code 1 where a bound is missed.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

if not __package__:  # run as a file: where nothing is installed the checkout serves
    sys.path.append(str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor

from benchmarks.gpu_report import end_cleanly_on_sigterm, trial_parser, write_report
from rbsf.system.program import positive_int, run
from rbsf.tools.step_trial import Trial, trial_config
from rbsf.train.capture import WARM_UP, CapturedSteps
from rbsf.train.device import choose_device

DOUBLE = torch.float64
EXACT, EXACT_LONG = 1e-9, 1e-6  # of one step and of all, in 64 bits
# Of 16-bit and TF32 arithmetic: the loss of one step, relative.
LOSS_BOUNDS = {"TF32": 0.02, "bfloat16": 0.1}


@dataclass
class Outcome:
    """What steps have left, in float64 on the CPU: `loss`es [n], gradients and weights after the
    last, flat.
    """

    loss: Tensor
    gradients: Tensor
    weights: Tensor


@dataclass
class Row:
    """A comparison: distances of loss, gradients and weights, and the bound for each of those that
    has one.
    """

    name: str
    distances: tuple[float, float, float]
    bounds: tuple[float | None, float | None, float | None]
    note: str = ""

    @property
    def passed(self) -> bool:
        """Whether no bound is missed; not a number misses all."""
        pairs = zip(self.distances, self.bounds, strict=True)
        return all(distance <= bound for distance, bound in pairs if bound is not None)


def take_steps(trial: Trial, count: int, captured: bool = False) -> Outcome:
    """Run `count` steps."""
    steps = CapturedSteps(trial.rectifier) if captured else trial.rectifier
    losses = [steps.step(batch, 0)["loss"].double().cpu() for batch in trial.batches(count)]
    if isinstance(steps, CapturedSteps) and steps.failure:
        raise ValueError(f"not captured: {steps.failure}")
    modules = [module for name, module in trial.rectifier.modules().items() if name != "teacher"]
    weights = [parameter for module in modules for parameter in module.parameters()]
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    return Outcome(torch.stack(losses), _flat(gradients), _flat(weights))


def distances(found: Outcome, expected: Outcome) -> tuple[float, float, float]:
    """Relative distances of losses, gradients and weights."""
    return (
        _distance(found.loss, expected.loss),
        _distance(found.gradients, expected.gradients),
        _distance(found.weights, expected.weights),
    )


def compare(args: argparse.Namespace, device: torch.device) -> Iterator[Row]:
    """All comparisons, one after the other."""
    cpu = torch.device("cpu")
    config = trial_config(stages=args.stages, batch_size=args.batch_size)

    def outcome(
        place: torch.device, count: int = 1, dtype: torch.dtype = torch.float32, **how: bool
    ) -> Outcome:
        half = torch.bfloat16 if how.pop("half", False) else torch.float32
        return take_steps(Trial(config, place, dtype, half), count, **how)

    with arithmetic(tf32=False):
        exact = outcome(cpu, dtype=DOUBLE)
        yield Row(
            "float64, one step", distances(outcome(device, dtype=DOUBLE), exact), (EXACT,) * 3
        )
        long = distances(outcome(device, args.steps, DOUBLE), outcome(cpu, args.steps, DOUBLE))
        yield Row(f"float64, {args.steps} steps", long, (EXACT_LONG, None, EXACT_LONG))
        single, *others = (with_threads(threads, lambda: outcome(cpu)) for threads in (1, 2))
        spreads = [distances(other, single) for other in (*others, exact)]
        spread = tuple(2 * max(values) for values in zip(*spreads, strict=True))
        note = (
            "bounds: twice what the CPU with 2 threads, or in float64, differs from the CPU with 1"
        )
        yield Row("float32, one step", distances(outcome(device), single), spread, note)  # type: ignore[arg-type]
    half = distances(outcome(device, half=True), exact)
    yield Row("bfloat16, one step", half, (LOSS_BOUNDS["bfloat16"], None, None))
    if device.type != "cuda":
        return
    with arithmetic(tf32=True):
        yield Row(
            "TF32, one step", distances(outcome(device), exact), (LOSS_BOUNDS["TF32"], None, None)
        )

    def captured() -> tuple[tuple[float, float, float], str]:
        eager, replayed = (
            outcome(device, WARM_UP + 3, DOUBLE, captured=replay) for replay in (False, True)
        )
        equal = torch.equal(eager.weights, replayed.weights)
        return distances(replayed, eager), "equal to the bit" if equal else "not to the bit"

    def compiled() -> tuple[tuple[float, float, float], str]:
        config = trial_config(stages=args.stages, batch_size=args.batch_size, compile=True)
        return distances(take_steps(Trial(config, device, DOUBLE), 1), exact), ""

    with arithmetic(tf32=False, repeatable=True):
        yield attempt(f"captured and eager, float64, {WARM_UP + 3} steps", captured)
        yield attempt("compiled, float64, one step", compiled)


def attempt(name: str, function: Callable[[], tuple[tuple[float, float, float], str]]) -> Row:
    """The row of what `function` measures and remarks, or of the reason why it cannot."""
    try:
        found, note = function()
    except Exception as error:  # compilers have errors of their own
        found, note = (math.nan,) * 3, (str(error).splitlines() or [type(error).__name__])[0][:120]
    return Row(name, found, (EXACT,) * 3, note)


@contextmanager
def arithmetic(tf32: bool, repeatable: bool = False) -> Iterator[None]:
    """Context in which GPUs may take TF32 for float32, and in which they take algorithms that
    repeat their results.
    """
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.deterministic = repeatable
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = True, False
        torch.backends.cudnn.deterministic = False


def with_threads(threads: int, function: Callable[[], Outcome]) -> Outcome:
    """The outcome of `function` where PyTorch has so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return function()
    finally:
        torch.set_num_threads(before)


def _flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([tensor.detach().double().cpu().flatten() for tensor in tensors])


def _distance(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def as_cells(row: Row) -> list[str]:
    """A row of the table."""
    pairs = zip(row.distances, row.bounds, strict=True)
    cells = [
        f"{value:.1e}" + (f" (at most {bound:.0e})" if bound is not None else "")
        for value, bound in pairs
    ]
    return [row.name, *cells, "yes" if row.passed else "**no**", row.note]


def main(argv: list[str] | None = None) -> int:
    """Compare, print and write the table."""
    parser = trial_parser(__doc__ or "", batch_size=64, out=Path("runs/step_agreement"))
    help_of_steps = "steps of the long comparison (default: %(default)s)"
    parser.add_argument("--steps", type=positive_int, default=20, metavar="N", help=help_of_steps)
    args = parser.parse_args(argv)
    end_cleanly_on_sigterm()
    device = choose_device(args.device)
    rows: list[Row] = []
    heads = ["", "loss", "gradients", "weights", "within", ""]
    for row in compare(args, device):
        rows.append(row)
        print(" | ".join(as_cells(row)), flush=True)
        write_report(
            args.out,
            f"A step on {args.device} and on the CPU",
            device,
            heads,
            [as_cells(r) for r in rows],
        )
    missed = [row.name for row in rows if not row.passed]
    print(
        f"out of bounds: {'; '.join(missed)}"
        if missed
        else f"all {len(rows)} comparisons within their bounds"
    )
    return int(bool(missed))


if __name__ == "__main__":
    run(main)
