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

    A matrix in bf16 learns in fp32 and is rounded up or down by chance, so that it is right in the
    mean: rounded to the nearest, a change of less than half of the last of bf16's eight bits would
    be lost in every step. So is its first moment. Its second moment is one fp32 number a row, the
    mean over the row, as in FBGEMM's ``partial_rowwise_adam``
    (``fbgemm_gpu/codegen/genscript/optimizers.py``): some four bytes a number in all, not twelve.

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

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a state: what rows have of their own as it was saved, beside the parameter."""
        super().load_state_dict(state_dict)  # rounds moments, and may leave steps where they are
        for group, saved in zip(self.param_groups, state_dict["param_groups"], strict=True):
            for parameter, number in zip(group["params"], saved["params"], strict=True):
                if group.get("rowwise") and number in state_dict["state"]:
                    for name in ("step", "exp_avg_sq"):
                        value = state_dict["state"][number][name]
                        self.state[parameter][name] = value.to(parameter.device)

    def _step_rows(self, group: dict[str, Any], parameter: Tensor, gradient: Tensor) -> None:
        state, half = self.state[parameter], parameter.dtype == torch.bfloat16
        if not state:
            counts = (len(parameter), *[1] * (parameter.dim() - 1))
            state["step"] = parameter.new_zeros(counts, dtype=torch.float32)
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(state["step"] if half else parameter)
        rows, gradient, looked_up = _looked_up(gradient)
        beta1, beta2 = group["betas"]
        step = state["step"][rows] + 1
        mean = state["exp_avg"][rows].float().lerp_(gradient, 1 - beta1)
        size = gradient.square().mean(dim=1, keepdim=True).sqrt_() if half else gradient
        square = state["exp_avg_sq"][rows].mul_(beta2).addcmul_(size, size, value=1 - beta2)
        for name, value in (("step", step), ("exp_avg", mean), ("exp_avg_sq", square)):
            self._write(state[name], rows, value, looked_up)
        scale = (square / (1 - beta2**step)).sqrt_().add_(group["eps"])
        change = (mean / (1 - beta1**step)).div_(scale)
        after = parameter[rows].float() * (1 - group["lr"] * group["weight_decay"])
        self._write(parameter, rows, after.sub_(change, alpha=group["lr"]), looked_up)

    @staticmethod
    def _write(table: Tensor, rows: Tensor, values: Tensor, looked_up: Tensor) -> None:
        """Give a table its new rows, but those that were not looked up."""
        if table.dtype == torch.bfloat16:
            values = _rounded_by_chance(values)
        table[rows] = torch.where(looked_up, values, table[rows])


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


def _rounded_by_chance(values: Tensor) -> Tensor:
    """Matrix in bf16 whose mean over chance is the matrix ``values`` in fp32.

    A number that is not negative and below one bf16, added to the bits of fp32, carries over into
    those that bf16 has as often as these are short of the value. All rows get the same draws: on a
    GPU a row may be there twice, and must be the same.
    """
    drawn = torch.randint_like(values[:1], 1 << 16, dtype=torch.int32)
    return ((values.view(torch.int32) + drawn) & -(1 << 16)).view(torch.float32).bfloat16()


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
