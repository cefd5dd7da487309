"""Feed the readers of what people write with what nobody would write.

    python scripts/fuzz_readers.py --seconds 600

Each reader of :data:`TARGETS` is given mutations of the files in ``tests/data/corpus``, guided by
what of the project's code they reach (atheris). Whatever is raised but ``DataError`` is a finding,
and so are half a minute without an end and more than 2 GB of memory: the input is kept as
``build/fuzz/<target>/crash-...`` and the exit code is 1. A finding is mended where it enters, and
its input becomes a file of the corpus, which the tests read.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).parents[1]
CORPUS = PROJECT / "tests/data/corpus"
FINDINGS = PROJECT / "build/fuzz"

_LONGEST = 30  # seconds
_MOST_MEMORY = 2048  # MB, of the whole process; torch and pandas take some 500
_RDF = (".nt", ".nq", ".ttl", ".trig")

Target = Callable[[Path, bytes], object]


def triples(folder: Path, content: bytes) -> object:
    """A graph's text files: all of them hold the same."""
    from mkgformer_kedro.datasets.graph_folder import GraphFolderDataset

    (folder / "any.tsv").write_bytes(content)
    roles = ("train", "dev", "test", "entities", "relations", "entity_texts", "relation_texts")
    files = dict.fromkeys(roles, "any.tsv")
    return GraphFolderDataset(filepath=str(folder), files=files).load()


def packed_triples(folder: Path, content: bytes) -> object:
    """The same in an archive."""
    from mkgformer_kedro.datasets.graph_folder import GraphFolderDataset

    (folder / "any.tsv.gz").write_bytes(content)
    files = dict.fromkeys(("train", "dev", "test"), "any.tsv.gz")
    return GraphFolderDataset(filepath=str(folder), files=files).load()


def numbered_triples(folder: Path, content: bytes) -> object:
    """A graph of numbers, its files parted by a line of ``=``; the first byte says the layout."""
    from mkgformer_kedro.datasets.graph_folder import GraphFolderDataset

    layout = ("openke", "pykeen")[content[:1] == b"p"]
    roles = ("train", "dev", "test", "entities", "relations")
    for role, part in zip(roles, [*content[1:].split(b"\n=\n"), *5 * [b""]], strict=False):
        (folder / role).write_bytes(part)
    files = {role: role for role in roles}
    return GraphFolderDataset(filepath=str(folder), files=files, layout=layout).load()


def rdf(folder: Path, content: bytes) -> object:
    """RDF; the first byte says the format."""
    from mkgformer_kedro.datasets.graph_folder import GraphFolderDataset

    name = f"graph{_RDF[content[0] % len(_RDF) if content else 0]}"
    (folder / name).write_bytes(content[1:])
    known = _configured()
    graph = GraphFolderDataset(
        filepath=str(folder), layout="rdf", files={"graph": name}, split=known["split"],
        rdf=known["rdf"],
    )  # fmt: skip
    return graph.load()


@cache
def _configured() -> dict[str, Any]:
    from mkgformer_kedro.configuration import read_yaml

    return read_yaml(PROJECT / "conf/base/globals.yml")["link_prediction"]


def relation_posts(folder: Path, content: bytes) -> object:
    """Posts with mentions, and behind a line of ``=`` the relations."""
    from mkgformer_kedro.datasets.post_files import RelationPostsDataset

    posts, _, relations = content.partition(b"\n=\n")
    (folder / "posts.txt").write_bytes(posts)
    (folder / "relations.json").write_bytes(relations)
    files = dict.fromkeys(("train", "dev", "test"), "posts.txt")
    return RelationPostsDataset(
        filepath=str(folder), files=files | {"relations": "relations.json"}
    ).load()


def tagged_posts(folder: Path, content: bytes) -> object:
    """Posts with a tag for every word, and behind a line of ``=`` the subsets."""
    from mkgformer_kedro.datasets.post_files import TaggedPostsDataset

    posts, _, subsets = content.partition(b"\n=\n")
    (folder / "posts.txt").write_bytes(posts)
    (folder / "subsets.tsv").write_bytes(subsets)
    files = dict.fromkeys(("train", "dev", "test"), "posts.txt")
    return TaggedPostsDataset(filepath=str(folder), files=files | {"subsets": "subsets.tsv"}).load()


def crop_map(folder: Path, content: bytes) -> object:
    """A map of crops."""
    from mkgformer_kedro.datasets.post_images import read_crop_map

    (folder / "map.pth").write_bytes(content)
    return read_crop_map(folder / "map.pth")


def image(folder: Path, content: bytes) -> object:
    """An image: its header, and its pixels where the header lets it be used."""
    from mkgformer_kedro.modeling.images import decode_image
    from mkgformer_kedro.pipelines.image_association.decoding import Status, inspect_image

    (folder / "image").write_bytes(content)
    header = inspect_image(folder / "image", min_side=1, max_pixels=1_000_000)
    return decode_image(folder / "image", 16) if header.status is Status.OK else header


TARGETS: dict[str, Target] = {
    target.__name__: target
    for target in (
        *(triples, packed_triples, numbered_triples, rdf),
        *(relation_posts, tagged_posts, crop_map, image),
    )
}


def accepts(target: Target, folder: Path, content: bytes) -> bool:
    """Whether a reader takes the content; what it does not take is refused with ``DataError``."""
    from kedro.io import DatasetError

    from mkgformer_kedro.errors import DataError

    try:
        target(folder, content)
    except DataError:
        return False
    except DatasetError as error:
        if not isinstance(error.__cause__, DataError):
            raise
        return False
    return True


def fuzz(name: str, arguments: Sequence[str]) -> None:
    """Fuzz one reader; does not come back."""
    import atheris

    with atheris.instrument_imports(include=["mkgformer_kedro"]):
        import mkgformer_kedro.datasets.graph_folder
        import mkgformer_kedro.datasets.post_files
        import mkgformer_kedro.pipelines.image_association.decoding  # noqa: F401
    import logging

    logging.disable()
    folder = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))  # noqa: S108
    target = TARGETS[name]
    for file in (CORPUS / name).iterdir():
        accepts(target, folder, file.read_bytes())  # what it imports does not count as its time

    def run(content: bytes) -> None:
        accepts(target, folder, content)

    atheris.Setup([name, *arguments], run)
    atheris.Fuzz()


def main(arguments: Sequence[str] | None = None) -> int:
    """Fuzz readers one after the other; gives the number of findings."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=600, help="for all readers together")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--one", choices=TARGETS, help=argparse.SUPPRESS)
    options, passed_on = parser.parse_known_args(arguments)
    if options.one:
        fuzz(options.one, passed_on)
    found = 0
    for name in options.targets:
        kept = FINDINGS / name
        shutil.rmtree(kept, ignore_errors=True)
        (kept / "corpus").mkdir(parents=True)
        run = subprocess.run(  # noqa: S603 - this file
            [
                *(sys.executable, __file__, "--one", name),
                *(f"-max_total_time={options.seconds // len(options.targets)}", "-max_len=4096"),
                *(f"-timeout={_LONGEST}", f"-rss_limit_mb={_MOST_MEMORY}", f"-seed={options.seed}"),
                *(f"-artifact_prefix={kept}/", str(kept / "corpus"), str(CORPUS / name)),
            ],
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        (kept / "log").write_text(run.stdout + run.stderr)
        executions = re.findall(r"^#(\d+)", run.stderr, flags=re.MULTILINE)
        inputs = [path.name for path in kept.iterdir() if path.name not in ("corpus", "log")]
        found += len(inputs) or bool(run.returncode)
        done = f"{int(executions[-1]) if executions else 0:,} executions"
        print(f"{name}: {done}, code {run.returncode}, findings: {inputs or 'none'}", flush=True)
    return found


if __name__ == "__main__":
    sys.exit(min(main(), 1))
