"""AdamW in which a table whose rows are looked up learns row by row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mkgformer_kedro.modeling.towers import on_host


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
        rows, gradient, looked_up = _looked_up(gradient)
        beta1, beta2 = group["betas"]
        step = state["step"][rows] + 1
        mean = state["exp_avg"][rows].lerp_(gradient, 1 - beta1)
        square = state["exp_avg_sq"][rows].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        for name, value in (("step", step), ("exp_avg", mean), ("exp_avg_sq", square)):
            state[name][rows] = torch.where(looked_up, value, state[name][rows])
        scale = (square / (1 - beta2**step)).sqrt_().add_(group["eps"])
        change = (mean / (1 - beta1**step)).div_(scale)
        before = parameter[rows]
        after = before * (1 - group["lr"] * group["weight_decay"])
        parameter[rows] = torch.where(looked_up, after.sub_(change, alpha=group["lr"]), before)


def summed_up(gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Entries of the gradient of a matrix or vector; of those of one row all but one are zero.

    Unlike ``coalesce`` it keeps all entries, for whose number the host would wait for a GPU.

    Returns:
        ``(n,)`` rows; values, one row or number each; ``(n,)`` for each entry the number of the one
        that holds the sum of its row. A dense gradient has an entry for each row.
    """
    if not gradient.is_sparse:
        rows = torch.arange(len(gradient), device=gradient.device)
        return rows, gradient, rows
    rows, values = gradient._indices()[0], gradient._values()
    entries = torch.arange(len(rows), device=rows.device)
    holders = rows.new_empty(len(gradient)).index_put_((rows,), entries)[rows]
    return rows, torch.zeros_like(values).index_add_(0, holders, values), holders


def _looked_up(gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows ``(n,)``, the gradient of each, and whether that is not zero.

    On the host these are the rows that are not zero, each once. On a GPU, which would have to be
    waited for, they are all rows, or those of all entries, each with the gradient of its row.
    """
    rows, values, holders = summed_up(gradient)
    if on_host(values):
        kept = _not_zero(values).nonzero().squeeze(1)
        rows, values = rows[kept], values[kept]
    else:
        values = values[holders]
    return rows, values, _not_zero(values).view(-1, *[1] * (values.dim() - 1))


def _not_zero(values: Tensor) -> Tensor:
    return values.any(dim=1) if values.dim() > 1 else values != 0
