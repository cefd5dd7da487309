"""The pretraining of the glyphs' vision tower: resumed runs, labels, and what it must not see."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoImageProcessor, CLIPVisionModel

from mkgformer_kedro.training.towers import resolve_tower

PROJECT = Path(__file__).parents[2]
SAMPLE = PROJECT / "data/01_raw/unihan_glyphs"
FONTS = Path("/usr/share/fonts/opentype/noto")


def load_script() -> ModuleType:
    path = PROJECT / "scripts/pretrain_glyph_tower.py"
    sys.path.insert(0, str(path.parent))  # it imports the script that draws the glyphs
    try:
        specification = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(specification)
        sys.modules[path.stem] = module
        specification.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent))
    return module


script = load_script()


def small(**changes) -> script.Settings:
    settings = {"epochs": 2, "batch_size": 4, "width": 16, "layers": 1, "heads": 2, "patch": 16}
    return script.Settings(**{**settings, "checkpoint_steps": 2, **changes})


@pytest.fixture
def glyphs() -> script.Glyphs:
    random = np.random.default_rng(0)
    sizes = {**script.WHOLE, **dict.fromkeys(script.CORNERS, script.SHAPES)}
    return script.Glyphs(
        points=[f"U+{number:04X}" for number in range(10)],
        images=random.integers(256, size=(10, 2, 64, 64), dtype=np.uint8),
        labels={name: random.integers(size, size=10) for name, size in sizes.items()},
        components=random.random((10, 26)) < 0.1,
    )


def weights(learner: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: values.clone() for name, values in learner.state_dict().items()}


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


class TestTraining:
    def test_a_killed_run_ends_with_the_weights_of_a_whole_one(self, glyphs, tmp_path, monkeypatch):
        whole = weights(script.pretrain(glyphs, small(), tmp_path / "whole"))
        with monkeypatch.context() as patch:
            rate = script.learning_rate

            def killed(settings, progress):
                if progress >= 0.5:
                    raise KeyboardInterrupt
                return rate(settings, progress)

            patch.setattr(script, "learning_rate", killed)
            with pytest.raises(KeyboardInterrupt):
                script.pretrain(glyphs, small(), tmp_path / "killed")
        steps = []
        monkeypatch.setattr(
            script,
            "learning_rate",
            lambda settings, progress: steps.append(progress) or rate(settings, progress),
        )
        resumed = script.pretrain(glyphs, small(), tmp_path / "killed")
        assert len(steps) == 4  # of six, two of which the checkpoint holds
        assert_same(weights(resumed), whole)

    def test_a_checkpoint_of_another_job_is_not_used(self, glyphs, tmp_path):
        script.pretrain(glyphs, small(seed=1), tmp_path)
        after = weights(script.pretrain(glyphs, small(), tmp_path))
        assert_same(after, weights(script.pretrain(glyphs, small(), tmp_path / "fresh")))

    def test_every_weight_is_learned(self, glyphs, tmp_path):
        before = weights(script.make_learner(small()))
        after = weights(script.pretrain(glyphs, small(), tmp_path))
        # The bias of keys shifts all scores of a query alike, and softmax does not see it.
        learned = [name for name in before if "k_proj.bias" not in name and "ids" not in name]
        assert [name for name in learned if torch.equal(before[name], after[name])] == []

    def test_an_epoch_holds_every_character_once_in_an_order_of_its_own(self):
        settings = small()
        epochs = [
            np.concatenate([script.rows_of(10, settings, epoch, place) for place in range(3)])
            for epoch in range(2)
        ]
        assert [sorted(rows) for rows in epochs] == [list(range(10))] * 2
        assert list(epochs[0]) != list(epochs[1])

    def test_the_learning_rate_rises_and_falls(self):
        settings = small(warmup=0.1, learning_rate=1.0)
        rates = [script.learning_rate(settings, progress) for progress in (0, 0.05, 0.1, 0.55, 1)]
        assert rates == pytest.approx([0, 0.5, 1, 0.5, 0])

    def test_what_the_tables_do_not_say_costs_nothing(self, glyphs):
        unknown = script.Glyphs(
            glyphs.points,
            glyphs.images,
            {name: np.full_like(values, script.UNKNOWN) for name, values in glyphs.labels.items()},
            np.zeros_like(glyphs.components),
        )
        scores = script.make_learner(small())(script.to_pixel_values(glyphs.images[:, 0]))
        assert script.loss_of(scores, unknown) == 0
        assert script.loss_of(scores, glyphs) > 0

    def test_a_corner_is_read_from_the_patches_of_its_quarter(self):
        patches = torch.arange(16.0).reshape(1, 16, 1)
        expected = [np.mean(rows) for rows in ([0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13])]
        assert script.quarters(patches)[0, :3, 0].tolist() == expected
        assert script.CORNERS == ("upper_left", "upper_right", "lower_left", "lower_right")


class TestInput:
    def test_an_unmoved_image_is_the_image(self, glyphs):
        still = np.tile(np.eye(2, 3), (10, 1, 1))
        images = glyphs.images[:, 0]
        moved, plain = script.to_pixel_values(images, still), script.to_pixel_values(images)
        torch.testing.assert_close(moved, plain, atol=1e-4, rtol=0)

    def test_what_comes_into_view_is_white(self):
        black = np.zeros((1, 64, 64), np.uint8)
        aside = np.array([[[1.0, 0, 1.0], [0, 1.0, 0]]])  # half an image to the left
        moved = script.to_pixel_values(black, aside)
        white = script.to_pixel_values(np.full_like(black, 255))
        torch.testing.assert_close(moved[..., 40:], white[..., 40:])
        assert moved[..., :24].max() < white.min()

    def test_pixels_are_normalised_as_the_written_processor_does(self, glyphs, tmp_path):
        learner = script.make_learner(small())
        card = {"scores": "", "held_out": ""}
        script.write_tower(learner.tower, glyphs, small(), card, tmp_path / "tower")
        processor = AutoImageProcessor.from_pretrained(tmp_path / "tower", backend="pil")
        images = [np.repeat(image[..., None], 3, axis=-1) for image in glyphs.images[:, 0]]
        expected = processor(images, return_tensors="pt")["pixel_values"]
        actual = script.to_pixel_values(glyphs.images[:, 0])
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)


class TestLabels:
    def test_they_are_what_the_tables_say(self):
        fields = {
            "kRSUnicode": {"A": "85.5", "B": "187'.3 9.1"},
            "kTotalStrokes": {"A": "8", "B": "99"},
            "kCangjie": {"A": "EMNR"},
            "kFourCornerCode": {"A": "3112.0"},
        }
        unihan = SimpleNamespace(
            fields=fields, first=lambda field, point: fields[field][point].split()[0]
        )
        labels, components = script.labels_of(unihan, ["A", "B"])
        assert {name: values.tolist() for name, values in labels.items()} == {
            "radical": [84, 186],
            "strokes": [7, 49],
            "first_component": [4, script.UNKNOWN],
            "last_component": [17, script.UNKNOWN],
            "upper_left": [3, script.UNKNOWN],
            "upper_right": [1, script.UNKNOWN],
            "lower_left": [1, script.UNKNOWN],
            "lower_right": [2, script.UNKNOWN],
        }
        assert np.flatnonzero(components[0]).tolist() == [4, 12, 13, 17]
        assert not components[1].any()


class TestTower:
    def test_it_is_written_as_a_folder_that_loads_in_single_precision(self, glyphs, tmp_path):
        tower = script.make_learner(small()).tower
        target = tmp_path / "models/tower"
        card = {"scores": "| radical | 0.500 |", "held_out": "2"}
        script.write_tower(tower, glyphs, small(), card, target)
        loaded = CLIPVisionModel.from_pretrained(target)
        for name, values in loaded.state_dict().items():
            assert values.dtype in (torch.float32, torch.int64)
            if values.dtype == torch.float32:
                assert torch.equal(values, tower.state_dict()[name].half().float())
        assert (target / "characters.txt").read_text().split() == glyphs.points
        assert "| radical | 0.500 |" in (target / "README.md").read_text()
        assert [path.name for path in target.parent.iterdir()] == ["tower"]

    def test_the_one_that_is_meant_is_small(self):
        tower = script.make_learner(script.Settings()).tower
        count = sum(values.numel() for values in tower.parameters())
        assert 1_000_000 <= count <= 2_000_000

    def test_it_sees_no_character_of_the_sample_nor_one_that_looks_the_same(
        self, monkeypatch, lacks
    ):
        """U+6CB3 and U+51B7 are in the sample, U+F92E is another code point for the latter."""
        if not all((FONTS / name).is_file() for name in script.FONTS.values()):
            lacks("Debian's fonts-noto-cjk is not installed")
        points = ["U+4E02", "U+4E04", "U+51B7", "U+5F0D", "U+6CB3", "U+F92E"]
        fields = {
            "kUnihanCore2020": dict.fromkeys(points, "G"),
            "kRSUnicode": dict.fromkeys(points, "1.1"),
            "kTotalStrokes": dict.fromkeys(points, "2"),
            "kCangjie": {},
            "kFourCornerCode": {},
        }
        unihan = SimpleNamespace(
            fields=fields, radicals={}, first=lambda field, point: fields[field][point]
        )
        entities = set((SAMPLE / "entities.txt").read_text().split())
        assert entities & set(points) == {"U+6CB3", "U+51B7"}
        alike = {"U+5F0D": "U+6CB3"}
        draw = script.draw_glyph
        monkeypatch.setattr(
            script, "draw_glyph", lambda point, font: draw(alike.get(point, point), font)
        )
        glyphs = script.draw_characters(unihan, FONTS, SAMPLE)
        assert glyphs.points == ["U+4E02", "U+4E04"]
        assert glyphs.images.shape == (2, 2, 64, 64)


class TestTheTowerInVersionControl:
    """What the sample starts from."""

    folder = PROJECT / "models/unihan_glyph_tower"

    def test_it_has_seen_no_character_of_the_sample(self):
        seen = set((self.folder / "characters.txt").read_text(encoding="utf-8").split())
        entities = (SAMPLE / "entities.txt").read_text(encoding="utf-8").split()
        characters = {entity for entity in entities if entity.startswith("U+")}
        assert len(seen) > 15_000
        assert len(characters) > 2_500
        assert not seen & characters
        assert not {script.unified(point) for point in seen} & characters

    def test_it_is_whole_and_small(self):
        assert resolve_tower(str(self.folder)) == str(self.folder)
        listed = (self.folder / "SHA256SUMS").read_text(encoding="utf-8").split()[1::2]
        there = {path.name for path in self.folder.iterdir()}
        assert there == {*listed, "SHA256SUMS"}
        assert sum(path.stat().st_size for path in self.folder.iterdir()) < 4_000_000
        tower = CLIPVisionModel.from_pretrained(self.folder)
        assert 1e6 < sum(values.numel() for values in tower.parameters()) < 2e6
        assert all(values.isfinite().all() for values in tower.parameters())
