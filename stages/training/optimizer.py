"""AdamW over all parameters.

torch.optim's AdamW pulls in torch's compiler at its first use, 1.4 CPU seconds of every process: as much as a small
run's first twenty steps. This one does the same arithmetic in the same order; a test holds the two to equal bits.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stages.config import Optimizer


@dataclass
class Moments:
    """What AdamW remembers of one parameter, or of this process's shard of it."""

    mean: Tensor
    square: Tensor
    step: int = 0


# Why: docs/decisions.md, D16
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
    def step(self, rate: float, *, fused: bool | None = None) -> None:
        """One update with the gradients that are there, at this learning rate.

        `fused`: in one kernel for all parameters; by default on a GPU. The loop has the bits of torch.optim's loop.
        """
        ready = [name for name, parameter in self._weights.items() if parameter.grad is not None]
        for name in ready:
            if name not in self._moments:
                own = select_local_shard(self._weights[name])
                self._moments[name] = Moments(torch.zeros_like(own), torch.zeros_like(own))
            self._moments[name].step += 1
        if ready and (self._weights[ready[0]].device.type == "cuda" if fused is None else fused):
            self._step_fused(ready, rate)
        else:
            for name in ready:
                self._step_one(name, rate)

    def _step_one(self, name: str, rate: float) -> None:
        """The update of one parameter, with the bits of torch.optim's loop."""
        beta1, beta2 = self.config.beta1, self.config.beta2
        parameter, gradient = select_local_shard(self._weights[name]), select_local_shard(self._weights[name].grad)
        moments = self._moments[name]
        parameter.mul_(1 - rate * self.config.weight_decay)
        moments.mean.lerp_(gradient, 1 - beta1)
        moments.square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        root = moments.square.sqrt().div_((1 - beta2**moments.step) ** 0.5).add_(self.config.eps)
        parameter.addcdiv_(moments.mean, root, value=-rate / (1 - beta1**moments.step))

    def _step_fused(self, names: Sequence[str], rate: float) -> None:
        """The update of several parameters of one device in one kernel (torch.optim's, with `fused=True`)."""
        moments = [self._moments[name] for name in names]
        device = self._weights[names[0]].device
        steps = {step: torch.tensor(float(step), device=device) for step in {one.step for one in moments}}
        torch._fused_adamw_(
            [select_local_shard(self._weights[name]) for name in names],
            [select_local_shard(self._weights[name].grad) for name in names],
            [one.mean for one in moments],
            [one.square for one in moments],
            [],
            [steps[one.step] for one in moments],
            lr=rate,
            beta1=self.config.beta1,
            beta2=self.config.beta2,
            weight_decay=self.config.weight_decay,
            eps=self.config.eps,
            amsgrad=False,
            maximize=False,
        )

    def dump_state(self) -> dict[str, Tensor]:
        """Its tensors as `exp_avg.NAME`, `exp_avg_sq.NAME` and `step.NAME`, torch.optim's words.

        Of a parameter that is distributed (a DTensor) the moments are this process's shard.
        """
        tensors: dict[str, Tensor] = {}
        for name, moments in self._moments.items():
            tensors[f"exp_avg.{name}"] = moments.mean
            tensors[f"exp_avg_sq.{name}"] = moments.square
            tensors[f"step.{name}"] = torch.tensor(float(moments.step))
        return tensors

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes up what `dump_state` gave; a parameter that it lacks (a new projector) starts without moments."""
        self._moments = {
            name: Moments(
                select_local_shard(tensors[f"exp_avg.{name}"]).to(parameter.device),
                select_local_shard(tensors[f"exp_avg_sq.{name}"]).to(parameter.device),
                int(tensors[f"step.{name}"].item()),
            )
            for name, parameter in self._weights.items()
            if f"step.{name}" in tensors
        }


def select_local_shard(tensor: Tensor | None) -> Tensor:
    """This process's shard of a DTensor, without copying it; another tensor as it is."""
    assert tensor is not None  # noqa: S101 - for the type checker
    own: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return own
