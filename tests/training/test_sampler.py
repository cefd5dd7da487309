"""The order of an epoch."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mkgformer_kedro.training.sampler import BatchSampler


def sampler(entity, lengths, **changes):
    settings = {"batch_size": 4, "items_per_owner": 3, "shuffle": True, "seed": 0} | changes
    items = settings.pop("items", np.arange(len(entity)))
    return BatchSampler(items, np.asarray(entity), np.asarray(lengths), **settings)


@given(
    entity=st.lists(st.integers(0, 6), min_size=1, max_size=60),
    seed=st.integers(0, 9),
    epoch=st.integers(0, 3),
    run=st.integers(1, 5),
)
def test_an_epoch_sees_every_query_once(entity, seed, epoch, run):
    batches = sampler(entity, [9] * len(entity), seed=seed, items_per_owner=run)
    batches.set_epoch(epoch)
    seen = list(batches)
    assert len(seen) == len(batches)
    assert sorted(number for batch in seen for number in batch) == list(range(len(entity)))
    assert all(len(batch) <= 4 for batch in seen)


@given(count=st.integers(1, 60), processes=st.integers(1, 4), seed=st.integers(0, 9))
def test_processes_together_see_every_query(count, processes, seed):
    from accelerate.data_loader import BatchSamplerShard

    batches = sampler(np.arange(count) % 7, [9] * count, seed=seed)
    shards = [list(BatchSamplerShard(batches, processes, rank)) for rank in range(processes)]
    assert {len(shard) for shard in shards} == {-(-len(batches) // processes)}
    assert {number for shard in shards for batch in shard for number in batch} == set(range(count))


def test_an_item_that_stands_twice_is_seen_twice():
    batches = sampler([0, 1, 2], [5, 5, 5], items=np.array([0, 0, 2]))
    assert sorted(number for batch in batches for number in batch) == [0, 0, 2]


def test_order_is_a_function_of_seed_and_epoch():
    entity, lengths = np.arange(200) % 17, np.arange(200) % 5
    first, again = sampler(entity, lengths), sampler(entity, lengths)
    order = list(first)
    assert order == list(first) == list(again)
    first.set_epoch(1)
    assert list(first) != order
    assert list(sampler(entity, lengths, seed=1)) != order


def test_queries_of_one_entity_stand_in_runs():
    entity = np.repeat(np.arange(40), 8)
    batches = list(sampler(entity, np.full(320, 7), batch_size=32, items_per_owner=8))
    distinct = [len(set(entity[batch])) for batch in batches]
    assert np.mean(distinct) <= 32 / 8 + 1


def test_batches_hold_prompts_of_similar_length():
    lengths = np.random.default_rng(0).integers(8, 64, 4000)
    batches = list(sampler(np.arange(4000), lengths, batch_size=32, items_per_owner=1))
    padded = sum(len(batch) * lengths[batch].max() for batch in batches)
    assert padded < 1.1 * lengths.sum()


def test_without_shuffling_the_order_is_that_of_the_items():
    batches = sampler([2, 1, 0, 2, 1], [1] * 5, shuffle=False, batch_size=2)
    assert list(batches) == [[0, 1], [2, 3], [4]]
