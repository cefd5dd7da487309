"""What `make fuzz` begins with, and what it found, is read or refused with the one error."""

import importlib.util
import random
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts/fuzz_readers.py"
SPECIFICATION = importlib.util.spec_from_file_location("fuzz_readers", SCRIPT)
script = importlib.util.module_from_spec(SPECIFICATION)
SPECIFICATION.loader.exec_module(script)
MUTATIONS = 10  # of each file


def mutated(content, draw):
    """The content with a piece of it changed, doubled or taken out."""
    start = draw.randrange(len(content))
    end = min(len(content), start + draw.randint(1, 8))
    piece = draw.choice([draw.randbytes(end - start), 2 * content[start:end], b""])
    return content[:start] + piece + content[end:]


@pytest.mark.parametrize("name", script.TARGETS)
def test_what_anybody_may_write_is_read_or_refused_with_the_one_error(name, tmp_path):
    draw = random.Random(name)  # noqa: S311 - nothing secret
    files = sorted((script.CORPUS / name).iterdir())
    accepted = []
    for file in files:
        content = file.read_bytes()
        accepted.append(script.accepts(script.TARGETS[name], tmp_path, content))
        for _ in range(MUTATIONS):
            script.accepts(script.TARGETS[name], tmp_path, mutated(content, draw))
    assert any(accepted), "no file of the corpus is read"
