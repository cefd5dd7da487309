"""AdamW in which a table whose rows are looked up learns row by row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class RowwiseAdamW(torch.optim.AdamW):
    """AdamW; in groups with ``rowwise`` each row of a matrix, or number of a vector, is on its own.

    A row whose gradient is zero in a step (no token of the batch looked it up) is left as it is:
    its value, which no weight decay shrinks, its moments, and the number of its steps, by which
    the moments are corrected. All other rows, and all other parameters, learn as by
    :class:`torch.optim.AdamW`. The learning rate is everywhere that of the present step.

    Gradients may be sparse, as :class:`torch.nn.Embedding` makes them with ``sparse``, so that a
    step costs what the rows of its batch cost, however large the vocabulary is.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; ``closure`` computes the loss anew."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        gradients = [
            (group, parameter, parameter.grad)
            for group in self.param_groups
            if group.get("rowwise")
            for parameter in group["params"]
            if parameter.grad is not None
        ]
        for group, parameter, gradient in gradients:
            self._step_rows(group, parameter, gradient)
            parameter.grad = None  # not for the step of the others
        super().step()
        for _, parameter, gradient in gradients:
            parameter.grad = gradient
        return loss

    def _step_rows(self, group: dict[str, Any], parameter: Tensor, gradient: Tensor) -> None:
        state = self.state[parameter]
        if not state:
            counts = (len(parameter), *[1] * (parameter.dim() - 1))
            state["step"] = parameter.new_zeros(counts, dtype=torch.float32)
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        rows, gradient = nonzero_rows(gradient)
        beta1, beta2 = group["betas"]
        step = state["step"][rows] + 1
        mean = state["exp_avg"][rows].lerp_(gradient, 1 - beta1)
        square = state["exp_avg_sq"][rows].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        for name, value in (("step", step), ("exp_avg", mean), ("exp_avg_sq", square)):
            state[name][rows] = value
        scale = (square / (1 - beta2**step)).sqrt_().add_(group["eps"])
        change = (mean / (1 - beta1**step)).div_(scale)
        kept = parameter[rows].mul_(1 - group["lr"] * group["weight_decay"])
        parameter[rows] = kept.sub_(change, alpha=group["lr"])


def nonzero_rows(gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of a matrix or vector, dense or sparse, that are not zero: numbers ``(n,)``, values."""
    if gradient.is_sparse:
        gradient = gradient.coalesce()
        rows, values = gradient.indices()[0], gradient.values()
    else:
        rows, values = None, gradient
    kept = (values.any(dim=1) if values.dim() > 1 else values).nonzero().squeeze(1)
    return kept if rows is None else rows[kept], values[kept]
