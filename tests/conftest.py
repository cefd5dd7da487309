"""Fixtures for every room."""

from __future__ import annotations

import importlib.util
import json
import os
import runpy
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import pytest
from hypothesis import settings
from omegaconf import OmegaConf
from xdist.scheduler import LoadFileScheduling

# No test depends on how fast the machine is.
settings.register_profile("mkgformer_kedro", deadline=None)
settings.load_profile("mkgformer_kedro")

pytest_plugins = ["tiny_world"]

ROOT = Path(__file__).parents[1]

# Here, and in all processes that tests start, the project may execute no data.
GUARD = ROOT / "tests/guard"
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(GUARD), os.getenv("PYTHONPATH"))))
runpy.run_path(str(GUARD / "sitecustomize.py"))

SAMPLE = ROOT / "data/01_raw/wordnet_emoji"
SYNTHETIC = ("synthetic_relation_extraction", "synthetic_entity_recognition")

GRAPH_FILES = {
    "train": "train.tsv",
    "dev": "dev.tsv",
    "test": "test.tsv",
    "entities": "entities.txt",
    "relations": "relations.txt",
    "entity_texts": "entity2text.txt",
    "relation_texts": "relation2text.txt",
}

_GRAPH = {
    "train.tsv": "007\tlikes\t02\n02\tlikes\t03\n03\tknows\t04\n02\tknows\t007\n",
    "dev.tsv": "007\tknows\t03\n",
    "test.tsv": "007\tlikes\t04\n04\tlikes\t02\n",
    "entities.txt": "007\n02\n03\n04\n",
    "relations.txt": "likes\nknows\n",
    "entity2text.txt": '007\tBond, a spy\n02\tM, head of "MI6"\n03\tQ\n04\tM, another one\n',
    "relation2text.txt": "likes\tis fond of\nknows\thas met\n",
}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> LoadFileScheduling:
    """Share files out to processes: those that take ``finished_project`` to one, which builds it.

    (``xdist_group`` would say the same, but xdist 3.8 does not heed it beside pytest 9.)
    """
    sharing = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "tests").rglob("test_*.py")
        if "finished_project" in path.read_text()
    }

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return "finished_project" if file in sharing else file

    config.option.loadscopereorder = False
    return Scheduling(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Let processes begin with what takes longest, so that none is left alone with it."""
    if hasattr(config, "workerinput"):
        tests = Counter(item.path for item in items)
        items.sort(
            key=lambda item: (
                item.get_closest_marker("whole_run") is None,
                -tests[item.path],
            )
        )


@pytest.fixture
def graph_files() -> dict[str, str]:
    """File names of the graph that ``write_graph`` writes, by role."""
    return dict(GRAPH_FILES)


@pytest.fixture
def write_graph(tmp_path: Path) -> Callable[..., Path]:
    """Write a graph of four entities; files given by name replace its own, None leaves one out."""

    def write(files: dict[str, str | bytes | None] | None = None) -> Path:
        folder = tmp_path / "graph"
        folder.mkdir(exist_ok=True)
        for name, content in {**_GRAPH, **(files or {})}.items():
            if content is not None:
                raw = content.encode() if isinstance(content, str) else content
                (folder / name).write_bytes(raw)
        return folder

    return write


@pytest.fixture(scope="session")
def benchmarks() -> Path:
    """Folder of the real benchmark files, in the layout of the authors' download."""
    folder = os.environ.get("MKGFORMER_BENCHMARKS")
    if not folder:
        pytest.skip("MKGFORMER_BENCHMARKS does not name the folder of the benchmark files")
    return Path(folder)


@pytest.fixture(scope="session")
def lacks() -> Callable[[str], NoReturn]:
    """What a test does that lacks a package of the system: it fails in CI, and else is skipped."""
    return pytest.fail if os.environ.get("CI") == "true" else pytest.skip


@pytest.fixture(scope="session")
def draw_images(lacks: Callable[[str], NoReturn]) -> ModuleType:
    """The script that draws with a browser."""
    path = ROOT / "scripts/draw_images.py"
    specification = importlib.util.spec_from_file_location(path.stem, path)
    script = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(script)
    if script.find_chromium() is None:
        lacks("there is no Chromium to open pages with")
    return script


class Project:
    """A copy of this project in a folder of its own, driven as a person drives it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._environment = {
            name: value
            for name, value in os.environ.items()
            # Where the copy's code, Kedro's environment and DVC's remote come from is under test.
            if not name.startswith(("PYTHON", "KEDRO_", "DVC_", "GIT_"))
        } | {
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "OMP_NUM_THREADS": "1",
            "DO_NOT_TRACK": "true",
            "DVC_NO_ANALYTICS": "1",
            "DVC_SITE_CACHE_DIR": str(folder.parent / "dvc_site_cache"),
            "DVC_GLOBAL_CONFIG_DIR": str(folder.parent / "no_dvc_config"),
            "DVC_SYSTEM_CONFIG_DIR": str(folder.parent / "no_dvc_config"),
            "GIT_CONFIG_GLOBAL": os.devnull,
            **dict.fromkeys(("GIT_AUTHOR_NAME", "GIT_COMMITTER_NAME"), "test"),
            **dict.fromkeys(("GIT_AUTHOR_EMAIL", "GIT_COMMITTER_EMAIL"), "test@example.org"),
        }

    def start(self, *command: str) -> subprocess.Popen[str]:
        """Start a command in the project; its output, errors included, is on ``stdout``."""
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=self._environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def run(self, *command: str, fails: bool = False) -> str:
        """Run a command in the project, and see to it that it succeeds (or ``fails``)."""
        process = self.start(*command)
        output, _ = process.communicate()
        assert bool(process.returncode) == fails, output
        return output

    def replace(self, path: str, old: str, new: str) -> None:
        """Replace a text that stands in a file exactly once."""
        file = self.folder / path
        text = file.read_text()
        assert text.count(old) == 1, f"{old!r} is not exactly once in {path}"
        file.write_text(text.replace(old, new))

    def configure(self, name: str, values: dict[str, Any]) -> None:
        """Set values in a file of the reduced environment, which is made if there is none."""
        file = self.folder / "conf/ci" / f"{name}.yml"
        there = OmegaConf.load(file) if file.exists() else {}
        OmegaConf.save(OmegaConf.merge(there, values), file)

    def use_tiny_tower(self, folder: Path) -> None:
        """Read texts with a tiny tower, which spells out most words, in place of the real one."""
        longer = {"max_length": 96}
        self.configure("parameters", {"model": {"text_tower": str(folder)}})
        self.configure(
            "parameters_link_prediction",
            {"link_prediction": {"entity_modeling": longer, "finetuning": longer}},
        )


@pytest.fixture(scope="session")
def copy_project() -> Callable[[Path], Project]:
    """Copy the project to a folder, its sample cut down to a graph that is learned in seconds."""

    def copy(folder: Path) -> Project:
        files = [".dvcignore", ".gitignore", ".telemetry", "dvc.yaml", "pyproject.toml"]
        samples = [f"data/01_raw/{name}" for name in ("wordnet_emoji", *SYNTHETIC)]
        folders = ["conf", "notebooks", "scripts", "src", *samples]
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", "local", "images")
        for name in folders:
            keep_images = name.endswith(SYNTHETIC)
            shutil.copytree(ROOT / name, folder / name, ignore=None if keep_images else ignored)
        for name in [*files, ".dvc/config", ".dvc/.gitignore", "conf/local/.gitkeep"]:
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
        for readme in (ROOT / "data/01_raw").glob("*/README.md"):
            (folder / readme.relative_to(ROOT)).parent.mkdir(exist_ok=True)
            shutil.copy(readme, folder / readme.relative_to(ROOT))
        _cut_sample(folder / "data/01_raw/wordnet_emoji")
        project = Project(folder)
        fewer = {"max_steps": 4, "log_every": 2}
        project.configure("parameters_link_prediction", {"link_prediction": {"finetuning": fewer}})
        return project

    return copy


@pytest.fixture(scope="session")
def finished_project(
    tmp_path_factory: pytest.TempPathFactory, copy_project: Callable[[Path], Project]
) -> Project:
    """A copy in which every run was done once, in the reduced environment."""
    project = copy_project(tmp_path_factory.mktemp("finished") / "project")
    project.run("kedro", "run", "--pipelines", "link_prediction", "--env", "ci")
    on_posts = "relation_extraction,entity_recognition"
    project.run("kedro", "run", "--pipelines", on_posts, "--env", "ci")
    project.run("kedro", "run", "--pipelines", "completion,audit", "--env", "ci")
    return project


def _cut_sample(folder: Path, triples: int = 20) -> None:
    """Keep the first test and dev triples, and of the rest what touches their entities."""

    def read(name: str) -> list[list[str]]:
        return [line.split("\t") for line in (folder / name).read_text().splitlines()]

    splits = {split: read(f"{split}.tsv")[:triples] for split in ("dev", "test")}
    asked = {
        entity for rows in splits.values() for head, _, tail in rows for entity in (head, tail)
    }
    splits["train"] = [row for row in read("train.tsv") if asked & {row[0], row[2]}]
    kept = {entity for rows in splits.values() for head, _, tail in rows for entity in (head, tail)}
    tables = {f"{split}.tsv": rows for split, rows in splits.items()}
    for name in ("entities.txt", "entity2text.txt"):
        tables[name] = [row for row in read(name) if row[0] in kept]
    for name, rows in tables.items():
        (folder / name).write_text("".join("\t".join(row) + "\n" for row in rows))
    for images in (SAMPLE / "images").iterdir():
        if images.name.removeprefix("n") in kept:
            shutil.copytree(images, folder / "images" / images.name)


@pytest.fixture(scope="session")
def tiny_detector(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Make a randomly initialised zero-shot detector: ``owlv2`` or ``grounding_dino``."""
    made: dict[str, Path] = {}

    def make(kind: str) -> Path:
        import torch

        if kind not in made:
            made[kind] = tmp_path_factory.mktemp(kind)
            torch.manual_seed(0)
            {"owlv2": _owlv2, "grounding_dino": _grounding_dino}[kind](made[kind])
        return made[kind]

    return make


def _owlv2(folder: Path) -> None:
    from transformers import (
        CLIPTokenizer,
        Owlv2Config,
        Owlv2ForObjectDetection,
        Owlv2ImageProcessorPil,
        Owlv2Processor,
    )

    letters = [chr(code) for code in range(97, 123)]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=16
    )
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    sizes |= {"num_attention_heads": 2}
    config = Owlv2Config(
        text_config={
            **sizes,
            "vocab_size": len(words),
            "max_position_embeddings": 16,
            "pad_token_id": len(words) - 1,
            "bos_token_id": len(words) - 2,
            "eos_token_id": len(words) - 1,
        },
        vision_config={**sizes, "image_size": 32, "patch_size": 8},
        projection_dim=16,
    )
    model = Owlv2ForObjectDetection(config)
    for weights in model.box_head.parameters():
        weights.data.zero_()  # each patch's box lies at that patch, as a trained model begins
    model.save_pretrained(folder)
    images = Owlv2ImageProcessorPil(size={"height": 32, "width": 32})
    Owlv2Processor(images, tokenizer).save_pretrained(folder)


def _grounding_dino(folder: Path) -> None:
    from transformers import (
        BertTokenizer,
        GroundingDinoConfig,
        GroundingDinoForObjectDetection,
        GroundingDinoImageProcessorPil,
        GroundingDinoProcessor,
        SwinConfig,
    )

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "?", "red", "cat", "dog", "person"]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    tokenizer = BertTokenizer(str(folder / "vocab.txt"), model_max_length=16)
    config = GroundingDinoConfig(
        backbone_config=SwinConfig(
            image_size=32,
            patch_size=4,
            embed_dim=8,
            depths=[1, 1, 1, 1],
            num_heads=[1, 1, 1, 1],
            window_size=2,
            out_features=["stage2", "stage3", "stage4"],
        ),
        text_config={
            "model_type": "bert",
            "vocab_size": len(words),
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 16,
        },
        d_model=32,
        encoder_layers=1,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        num_queries=6,
        max_text_len=16,
        encoder_n_points=2,
        decoder_n_points=2,
    )
    GroundingDinoForObjectDetection(config).save_pretrained(folder)
    images = GroundingDinoImageProcessorPil(size={"shortest_edge": 80, "longest_edge": 200})
    GroundingDinoProcessor(images, tokenizer).save_pretrained(folder)


class TinyTowers:
    """Folders of tiny towers, made when they are first asked for; see ``tiny_towers.py``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.recipes = _load_module(Path(__file__).parent / "tiny_towers.py")

    def text(self, model_type: str) -> Path:
        """Folder of a text tower of that family, with its tokenizer."""
        folder = self.folder / "text" / model_type
        return folder if folder.is_dir() else self.recipes.make_text_tower(folder, model_type)

    def vision(self, model_type: str) -> Path:
        """Folder of a vision tower of that family, with its image processor's settings."""
        folder = self.folder / "vision" / model_type
        return folder if folder.is_dir() else self.recipes.make_vision_tower(folder, model_type)


def _load_module(path: Path) -> ModuleType:
    specification = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def tiny_towers(tmp_path_factory: pytest.TempPathFactory) -> TinyTowers:
    """Maker of tiny towers of every family."""
    return TinyTowers(tmp_path_factory.mktemp("tiny_towers"))
