"""The documentation builds without a warning, and everything that its pages name is there."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml

pytestmark = pytest.mark.whole_run

ROOT = Path(__file__).parents[1]


@dataclass
class Page(HTMLParser):
    """Links, embedded files and anchors of a page."""

    path: Path
    links: set[str] = field(default_factory=set)
    embedded: set[str] = field(default_factory=set)
    anchors: set[str] = field(default_factory=set)

    def __post_init__(self):
        super().__init__()
        self.feed(self.path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        found = {name: value for name, value in attrs if value}
        self.anchors |= {found[name] for name in ("id", "name") if name in found}
        if "src" in found:
            self.embedded.add(found["src"])
        if "href" in found:
            (self.embedded if tag == "link" else self.links).add(found["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site) -> dict[Path, Page]:
    return {path: Page(path) for path in site.rglob("*.html")}


def test_every_module_and_every_file_of_the_configuration_has_a_page(site):
    source = ROOT / "src"
    modules = {
        path.relative_to(source).with_suffix(".html")
        for path in source.rglob("*.py")
        if not path.name.startswith("_")
    }
    assert modules
    missing = [module for module in modules if not (site / "reference" / module).is_file()]
    assert missing == []
    for path in (ROOT / "conf/base").glob("*.yml"):
        assert (site / "conf/base" / f"{path.name}.html").is_file(), path


def test_every_notebook_is_a_page(site):
    notebooks = list((ROOT / "notebooks").glob("*.ipynb"))
    assert notebooks
    for path in notebooks:
        assert "jp-CodeCell" in (site / "notebooks" / f"{path.stem}.html").read_text()


def test_docstrings_are_there(site):
    page = site / "reference/mkgformer_kedro/datasets/visual_store.html"
    assert 'id="mkgformer_kedro.datasets.visual_store.VisualStore.read"' in page.read_text()


def test_links_lead_to_files_and_anchors_of_the_site(pages):
    """HTML that stands in Markdown is looked at too, which MkDocs leaves unchecked."""
    broken = []
    for path, page in pages.items():
        if path.name == "404.html":  # served from any place
            continue
        for link in page.links | page.embedded:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchor = unquote(parts.fragment)
            known = pages[target].anchors if target in pages else {anchor}
            if not target.is_file() or (anchor and anchor not in known):
                broken.append(f"{path.name}: {link}")
    assert broken == []


def test_nothing_is_fetched_from_elsewhere(pages):
    foreign = {link for page in pages.values() for link in page.embedded if urlsplit(link).netloc}
    assert foreign == set()


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])
    assert citation["references"][0]["url"] == "https://arxiv.org/abs/2205.02357"


def test_the_workflow_runs_what_any_machine_runs():
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    (job,) = workflow["jobs"].values()
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]
    assert os.access(ROOT / ".ci/run", os.X_OK)
