"""Rows that a batch looked up learn as by AdamW; the others stay as they are."""

from copy import deepcopy

import pytest
import torch

from mkgformer_kedro.training.optimizer import RowwiseAdamW

ROWS, STEPS = 6, 12
OPTIONS = {"lr": 0.1, "weight_decay": 0.3}


def lookups():
    """What each step looks up: row 1 twice in a step, row 3 late, row 5 never."""
    generator = torch.Generator().manual_seed(0)
    return [
        [*torch.randint(0, 3 if step < 8 else 5, (2,), generator=generator).tolist(), 1, 1][
            : 2 + 2 * (step % 2)
        ]
        for step in range(STEPS)
    ]


def loss_of(table, layer, rows):
    found = table(torch.tensor(rows)).float()
    return (layer(found) ** 2).sum() + found.sin().sum()


@pytest.fixture
def world():
    torch.manual_seed(1)
    return torch.nn.Embedding(ROWS, 4), torch.nn.Linear(4, 3)


def optimizer_of(table, layer):
    groups = [
        {"params": table.parameters(), "rowwise": True},
        {"params": layer.parameters(), "rowwise": False},
    ]
    return RowwiseAdamW(groups, **OPTIONS)


def train(table, layer, optimizer, batches, first=0):
    for step, rows in enumerate(batches, start=first):
        for group in optimizer.param_groups:
            group["lr"] = OPTIONS["lr"] / (1 + step)
        optimizer.zero_grad()
        loss_of(table, layer, rows).backward()
        optimizer.step()


@pytest.mark.parametrize("sparse", [False, True])
def test_each_row_is_a_parameter_of_its_own(world, sparse):
    (table, layer), (other, other_layer) = world, deepcopy(world)
    table.sparse = sparse

    train(table, layer, optimizer_of(table, layer), lookups())

    rows = [torch.nn.Parameter(row.clone()) for row in other.weight.detach()]
    reference = torch.optim.AdamW([*rows, *other_layer.parameters()], **OPTIONS)
    for step, looked_up in enumerate(lookups()):
        reference.param_groups[0]["lr"] = OPTIONS["lr"] / (1 + step)
        reference.zero_grad()  # to None, so that rows that are not looked up take no step
        found = torch.stack([rows[row] for row in looked_up])
        ((other_layer(found) ** 2).sum() + found.sin().sum()).backward()
        reference.step()
    torch.testing.assert_close(table.weight, torch.stack(rows))
    torch.testing.assert_close(layer.weight, other_layer.weight)
    assert torch.equal(table.weight[5], other.weight[5])
    assert not torch.equal(table.weight[3], other.weight[3])


def test_where_every_row_is_looked_up_it_is_adamw(world):
    (table, layer), (other, other_layer) = world, deepcopy(world)
    batches = [list(range(ROWS))] * 5

    train(table, layer, optimizer_of(table, layer), batches)

    parameters = [*other.parameters(), *other_layer.parameters()]
    train(other, other_layer, torch.optim.AdamW(parameters, **OPTIONS), batches)
    torch.testing.assert_close(table.weight, other.weight)
    torch.testing.assert_close(layer.weight, other_layer.weight)


@pytest.mark.parametrize("sparse", [False, True])
def test_each_number_of_a_vector_is_a_parameter_of_its_own(sparse):
    start = torch.randn(ROWS, generator=torch.Generator().manual_seed(2))
    vector, table = torch.nn.Parameter(start.clone()), torch.nn.Embedding(ROWS, 1)
    table.weight.data.copy_(start[:, None])
    for parameter in (vector, table.weight):
        optimizer = RowwiseAdamW([{"params": [parameter], "rowwise": True}], **OPTIONS)
        for looked_up in lookups():
            optimizer.zero_grad()
            index = torch.tensor(looked_up)
            one = parameter.dim() == 1
            found = parameter.gather(0, index, sparse_grad=sparse) if one else parameter[index]
            found.exp().sum().backward()
            optimizer.step()
    assert torch.equal(vector, table.weight[:, 0])
    assert vector[5] == start[5]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_goes_on_from_its_state(world, tmp_path, dtype):
    world[0].to(dtype)
    (table, layer), (other, other_layer) = world, deepcopy(world)
    table.weight.grad_dtype = other.weight.grad_dtype = torch.float32
    batches = lookups()
    torch.manual_seed(3)
    train(table, layer, optimizer_of(table, layer), batches)

    torch.manual_seed(3)
    first = optimizer_of(other, other_layer)
    train(other, other_layer, first, batches[:5])
    torch.save(first.state_dict(), tmp_path / "optimizer.pt")
    second = optimizer_of(other, other_layer)
    second.load_state_dict(torch.load(tmp_path / "optimizer.pt", weights_only=True))
    train(other, other_layer, second, batches[5:], first=5)

    assert torch.equal(table.weight, other.weight)
    assert torch.equal(layer.weight, other_layer.weight)


def test_the_state_goes_where_the_weights_are(world):
    """Torch leaves the numbers of steps where they were saved; those of rows are looked up."""
    table, layer = world
    first = optimizer_of(table, layer)
    train(table, layer, first, lookups()[:2])
    table.to("meta")
    second = optimizer_of(table, layer)
    second.load_state_dict(first.state_dict())
    state = second.state[table.weight]
    assert {name: value.device.type for name, value in state.items()} == dict.fromkeys(
        ("step", "exp_avg", "exp_avg_sq"), "meta"
    )
    assert state["step"].shape == (len(table.weight), 1)


def half_precision_table(value, **options):
    table = torch.nn.Parameter(value.bfloat16())
    table.grad_dtype = torch.float32
    return table, RowwiseAdamW([{"params": [table], "rowwise": True}], **options)


def test_what_half_precision_cannot_hold_is_right_in_the_mean():
    rate, steps = 2e-4, 50
    table, optimizer = half_precision_table(torch.ones(1, 10_000), lr=rate, weight_decay=0.0)
    nearest = table.detach().clone()
    torch.manual_seed(0)
    for _ in range(steps):
        table.grad = torch.full(table.shape, -3.0)
        optimizer.step()
        nearest = (nearest.float() + rate).bfloat16()
    assert (nearest == 1).all()
    # A step goes up by one bit, 1/128, with probability rate * 128.
    error = (steps * rate / 128 / table.numel()) ** 0.5
    assert table.float().mean().item() == pytest.approx(1 + steps * rate, abs=4 * error)


def test_in_half_precision_a_row_has_one_second_moment():
    gradient = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    gradient[1] = 0
    table, optimizer = half_precision_table(torch.ones(3, 8), **OPTIONS)
    table.grad = gradient
    optimizer.step()
    size = gradient.square().mean(dim=1, keepdim=True).sqrt()
    expected = 1 - OPTIONS["lr"] * (OPTIONS["weight_decay"] + gradient / size)
    expected[1] = 1
    torch.testing.assert_close(table.float(), expected, rtol=2**-7, atol=0)
    moments = optimizer.state[table]
    assert (moments["exp_avg"].dtype, moments["exp_avg_sq"].dtype) == (table.dtype, torch.float32)
    assert moments["exp_avg_sq"].shape == (3, 1)
