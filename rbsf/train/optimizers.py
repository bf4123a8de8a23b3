"""The optimizers of Algorithm 1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rbsf.train.distributed import average_gradients
from rbsf.train.rectify_config import RectifyConfig

DECAYED = ("binary", "real", "teacher")  # groups of parameters that decay


class Optimizers:
    """An optimizer for each group of parameters that learns, by the group's name.

    Their order is that of Algorithm 1: W, then C with W fixed. Batch-norms learn with W.
    """

    def __init__(self, groups: Mapping[str, list[nn.Parameter]], config: RectifyConfig) -> None:
        self.config = config
        self.by_name: dict[str, torch.optim.Optimizer] = {}
        for name, parameters in groups.items():
            learning = [parameter for parameter in parameters if parameter.requires_grad]
            if learning and self._rate(name):
                self.by_name[name] = self._make(name, learning)

    def _make(self, name: str, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        rate, decay = self._rate(name), self.config.weight_decay if name in DECAYED else 0.0
        # `fused` updates all parameters at once.
        options: dict[str, Any] = {"lr": rate, "weight_decay": decay, "fused": True}
        on_gpu = parameters[0].is_cuda
        if on_gpu:  # a recorded step (rbsf.train.capture) reads this tensor at each replay
            options["lr"] = torch.tensor(rate, device=parameters[0].device)
        if self.config.optimizer == "sgd" and name != "discriminator":
            return torch.optim.SGD(parameters, momentum=0.9, **options)
        return torch.optim.Adam(parameters, capturable=on_gpu, **options)

    def _rate(self, name: str) -> float:
        """The configured learning rate of a group.

        A teacher that is trained has the rate of real weights.
        """
        rate: float = getattr(self.config, "lr_real" if name == "teacher" else f"lr_{name}")
        return rate

    def set_rate_factor(self, factor: float) -> None:
        """Set every learning rate to `factor` times its configured value."""
        for name, optimizer in self.by_name.items():
            rate = factor * self._rate(name)
            for group in optimizer.param_groups:
                if isinstance(group["lr"], Tensor):
                    group["lr"].fill_(rate)
                else:
                    group["lr"] = rate

    def parameters(self, names: Sequence[str]) -> list[Tensor]:
        """The parameters of these groups that learn."""
        chosen = [self.by_name[name] for name in names if name in self.by_name]
        groups = [group for optimizer in chosen for group in optimizer.param_groups]
        return [parameter for group in groups for parameter in group["params"]]

    def update(self, loss: Tensor, names: Sequence[str]) -> None:
        """Make a step with these groups to reduce `loss`."""
        optimizers = [self.by_name[name] for name in names if name in self.by_name]
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        average_gradients(self.parameters(names))
        for optimizer in optimizers:
            optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        """The state of all optimizers, for a checkpoint."""
        return {name: each.state_dict() for name, each in self.by_name.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state_dict`. Raises KeyError if a group is not in it."""
        for name, optimizer in self.by_name.items():
            optimizer.load_state_dict(_with_options_of(optimizer, state[name]))


def _with_options_of(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> dict[str, Any]:
    """The saved `state` with the options of `optimizer`, since these suit its device."""
    groups = []
    for saved, group in zip(state["param_groups"], optimizer.param_groups, strict=True):
        options = {name: value for name, value in group.items() if name != "params"}
        groups.append({**saved, **options})
    return {**state, "param_groups": groups}
