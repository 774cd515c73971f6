"""AdamW over all parameters.

torch.optim's AdamW pulls in torch's compiler at its first use, 1.4 CPU seconds of every process: as much as a small
run's first twenty steps. This one does the same arithmetic in the same order; a test holds the two to equal bits.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stages.config import Optimizer


@dataclass
class Moments:
    """What AdamW remembers of one parameter."""

    mean: Tensor
    square: Tensor
    step: int = 0


class AdamW:
    """Weight decay acts on everything, norm gains and embeddings too (open_lm). A parameter without gradient rests."""

    def __init__(self, weights: Iterable[tuple[str, nn.Parameter]], config: Optimizer) -> None:
        self.config = config
        self._weights = dict(weights)
        self._moments: dict[str, Moments] = {}

    @property
    def parameters(self) -> list[nn.Parameter]:
        return list(self._weights.values())

    def zero_grad(self) -> None:
        """Forgets all gradients."""
        for parameter in self._weights.values():
            parameter.grad = None

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """One update with the gradients that are there, at this learning rate."""
        beta1, beta2 = self.config.beta1, self.config.beta2
        for name, parameter in self._weights.items():
            if (gradient := parameter.grad) is None:
                continue
            if name not in self._moments:
                self._moments[name] = Moments(torch.zeros_like(parameter), torch.zeros_like(parameter))
            moments = self._moments[name]
            moments.step += 1
            parameter.mul_(1 - rate * self.config.weight_decay)
            moments.mean.lerp_(gradient, 1 - beta1)
            moments.square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
            root = moments.square.sqrt().div_((1 - beta2**moments.step) ** 0.5).add_(self.config.eps)
            parameter.addcdiv_(moments.mean, root, value=-rate / (1 - beta1**moments.step))

    def state(self) -> dict[str, Tensor]:
        """Its tensors as `exp_avg.NAME`, `exp_avg_sq.NAME` and `step.NAME`, torch.optim's words."""
        tensors: dict[str, Tensor] = {}
        for name, moments in self._moments.items():
            tensors[f"exp_avg.{name}"] = moments.mean
            tensors[f"exp_avg_sq.{name}"] = moments.square
            tensors[f"step.{name}"] = torch.tensor(float(moments.step))
        return tensors

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes up what `state` gave; a parameter that it lacks (a new projector) starts anew."""
        self._moments = {
            name: Moments(
                tensors[f"exp_avg.{name}"].to(parameter.device),
                tensors[f"exp_avg_sq.{name}"].to(parameter.device),
                int(tensors[f"step.{name}"].item()),
            )
            for name, parameter in self._weights.items()
            if f"step.{name}" in tensors
        }
