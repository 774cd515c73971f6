"""The learning rate as a function of the step: for the training loop, and for the planner at branch points."""

import math

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Schedule(BaseModel):
    """Linear warmup, then a cosine from `peak_lr` to `final_lr` (open_lm's `cosine_lr`; paper, section 2).

    `warmup_steps=0` starts at `peak_lr`: the form of a run that continues at its trunk's learning rate.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    peak_lr: float = Field(
        gt=0,
        description="the learning rate after the warmup, above 0",
        json_schema_extra={"needed": "a trunk, unless the model is of the catalog"},
    )
    final_lr: float = Field(default=1e-5, ge=0, description="the learning rate at the end, from 0 on")
    warmup_steps: int = Field(
        default=0,
        ge=0,
        description="the steps in which the rate rises to its peak, a whole number of optimizer steps",
        json_schema_extra={"unit": "steps", "needed": "a trunk, unless the model is of the catalog"},
    )
    total_steps: int = Field(gt=0)

    @model_validator(mode="after")
    def _check_warmup(self) -> "Schedule":
        if self.warmup_steps >= self.total_steps:
            raise ValueError(
                f"warmup_steps {self.warmup_steps} must be less than total_steps {self.total_steps}; "
                "lower the warmup or lengthen the run"
            )
        return self

    def compute_lr(self, step: int) -> float:
        """Learning rate of the update that follows `step` finished updates; `final_lr` from `total_steps` on."""
        if step < self.warmup_steps:
            return self.peak_lr * (step + 1) / self.warmup_steps
        if step >= self.total_steps:
            return self.final_lr
        progress = (step - self.warmup_steps) / (self.total_steps - self.warmup_steps)
        return self.final_lr + 0.5 * (1 + math.cos(math.pi * progress)) * (self.peak_lr - self.final_lr)
