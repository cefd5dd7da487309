"""The comparison of recipes of stage 2; how well they do is not tested."""

import pandas as pd
import pytest
import recipe


def test_no_recipe_goes_on_with_what_another_left(monkeypatch, tmp_path, capsys):
    found = []

    def finetune(task, inputs, store, work, *settings):
        found.append([*work.iterdir()] if work.exists() else [])
        work.mkdir(parents=True, exist_ok=True)
        (work / "checkpoint").touch()
        if len(found) == 1:
            raise KeyboardInterrupt
        return work, pd.DataFrame({"loss": [2.0], recipe.MRR: [0.25]})

    monkeypatch.setattr(recipe, "finetune", finetune)
    monkeypatch.setattr(recipe.pd, "read_parquet", lambda path: pd.DataFrame())
    arguments = ["--work", str(tmp_path), "--recipes"]
    with pytest.raises(KeyboardInterrupt):
        recipe.main([*arguments, "temperature 2"])
    recipe.main([*arguments, "temperature .5", "temperature 2"])

    assert [len(each) for each in found] == [0, 0, 1]
    assert not list(tmp_path.rglob("checkpoint"))
    assert "| temperature 2 | 2.000 | 0.2500 |" in capsys.readouterr().out
