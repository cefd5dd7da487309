"""The drawing of the model."""

import importlib.util
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

PROJECT = Path(__file__).parents[2]
SCRIPT = PROJECT / "scripts/draw_model.py"


def load_script():
    specification = importlib.util.spec_from_file_location(SCRIPT.stem, SCRIPT)
    module = importlib.util.module_from_spec(specification)
    sys.modules[SCRIPT.stem] = module
    specification.loader.exec_module(module)
    return module


script = load_script()


def test_the_image_in_git_is_what_the_script_draws():
    assert script.IMAGE.read_text(encoding="utf-8") == script.draw_model()


def test_it_stands_alone_and_every_colour_has_a_value_in_both_schemes():
    drawing = script.draw_model()
    root = ElementTree.fromstring(drawing)  # noqa: S314 (made here)
    assert not any("href" in name for element in root.iter() for name in element.attrib)
    used = set(re.findall(r"var\(--([\w-]+)\)", drawing))
    light, dark = re.findall(r"svg \{ (--[^}]+) \}", drawing)
    for scheme in (light, dark):
        assert used <= set(re.findall(r"--([\w-]+): #[0-9a-f]{6};", scheme))


def test_it_names_what_the_model_has():
    root = ElementTree.fromstring(script.draw_model())  # noqa: S314
    said = " ".join("".join(element.itertext()) for element in root.iter())
    for name in ("PGI", "CAF", "M-Encoder", "Link prediction", "Relation", "Entity recognition"):
        assert name in said
