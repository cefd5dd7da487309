from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mixing import fit
from mkgformer_kedro.errors import DataError
from mkgformer_kedro.inference.mixture.answers import Answered


def test_blocks_that_are_damaged_or_of_another_expert_are_asked_again(
    world, few, experts, tmp_path, caplog
):
    def ask():
        return Answered.ask(experts, few, tmp_path, entities=30, batch_size=16)

    answered = ask()
    whole = {name: answered.place(name, 0)[0].read_bytes() for name in ("left", "right", "useless")}
    answered.place("left", 0)[0].write_bytes(whole["left"][:-1])
    answered.place("right", 0)[0].write_bytes(whole["useless"])
    with pytest.raises(DataError, match=r"right/00000000\.npz: the block is damaged, or of other"):
        list(answered.only(np.array([False, True, False])).blocks())
    ask()
    assert {name: answered.place(name, 0)[0].read_bytes() for name in whole} == whole
    said = [message for message in caplog.messages if message.endswith("it is made again")]
    assert len(said) == 2


def test_a_killed_fit_goes_on_where_it_was(world, experts, parameters, tmp_path):
    whole = fit(experts, world, tmp_path / "whole", parameters).save(tmp_path / "expected")

    class Dying:
        learned = None

        def __init__(self, expert, blocks):
            self.expert, self.blocks = expert, blocks
            self.name, self.seed, self.folder = expert.name, expert.seed, expert.folder

        def answers(self, queries):
            return self.expert.answers(queries)

        def scores(self, queries, *, batch_size):
            self.blocks -= 1
            if self.blocks < 0:
                raise KeyboardInterrupt
            return self.expert.scores(queries, batch_size=batch_size)

    with pytest.raises(KeyboardInterrupt):
        fit([experts[0], Dying(experts[1], 2), experts[2]], world, tmp_path / "work", parameters)
    asked = [len(expert.asked) for expert in experts]
    again = fit(experts, world, tmp_path / "work", parameters).save(tmp_path / "again")
    assert len(experts[0].asked) == asked[0]
    assert len(experts[1].asked) > asked[1]
    for name in ("expert.json", "mixture.safetensors"):
        assert (again / name).read_bytes() == (whole / name).read_bytes()
    # Answers of other experts are removed.
    other = world.expert("other")
    fit([other], world, tmp_path / "work", parameters)
    (answers,) = (tmp_path / "work").iterdir()
    # So are those in another precision.
    other.precision = "bf16"
    fit([other], world, tmp_path / "work", parameters)
    assert [*(tmp_path / "work").iterdir()] != [answers]
    assert not answers.exists()


def test_an_expert_of_another_graph_is_an_error(world, experts, parameters, tmp_path):
    other = replace(experts[1], table=experts[1].table[..., :20])
    with pytest.raises(DataError, match=r"expert right.*20 entities, and the graph has 30"):
        fit([experts[0], other], world, tmp_path, parameters)


def test_scores_that_are_no_numbers_are_an_error(world, experts, parameters, tmp_path):
    other = replace(experts[1], table=np.full_like(experts[1].table, np.nan))
    with pytest.raises(DataError, match=r"expert right.*no finite numbers"):
        fit([experts[0], other], world, tmp_path, parameters)
