"""The comparison of an index with scoring all entities, on a model of the tiny world."""

import pytest
import retrieval


def test_a_grown_table_is_searched_beside_all_of_it(entity_model, capsys):
    retrieval.main([str(entity_model), "--entities", "400", "--questions", "5"])
    printed = capsys.readouterr().out
    assert printed.startswith("400 entities: ")
    assert float(printed.split()[2]) == pytest.approx(1, abs=0.01)
