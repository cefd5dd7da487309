"""MkDocs hook: the site mirrors the repository.

Pages keep their place in the repository, so that a relative link means the same in both. A file
that a page links to joins the site, text as a page that shows it; so does a folder, as a list of
what it holds. Configuration and API reference have a page for every file in `conf/base` and module
in `src` that is found, so neither is listed in `mkdocs.yml`.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
SOURCES = ROOT / "src"
CONFIGURATION = ROOT / "conf/base"
REFERENCE = "reference"

_PAGES = (".md", ".ipynb")
_IMAGES = (".png", ".svg", ".jpg")
_LINK = re.compile(r"\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"")


class Shown(File):
    """A file or folder of the repository that has a page which shows its content."""

    def is_documentation_page(self) -> bool:
        """Yes."""
        return True


def on_config(config: MkDocsConfig) -> None:
    """Put configuration and API reference into the navigation."""
    files = sorted(CONFIGURATION.glob("*.yml"))
    shown = [{path.stem: path.relative_to(ROOT).as_posix()} for path in files]
    config.nav += [{"Configuration": shown}, {"API reference": _entries(_modules())}]


@event_priority(100)
def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Collect the pages of the navigation, what they link to, and the API reference."""
    place: dict[str, Any] = {
        "src_dir": str(ROOT),
        "dest_dir": config.site_dir,
        "use_directory_urls": config.use_directory_urls,
        "inclusion": InclusionLevel.INCLUDED,  # names with a dot in front too
    }
    found = Files([file for file in files if file.src_dir != config.docs_dir])  # the theme's
    waiting = list(_pages(config.nav))
    while waiting:
        path = waiting.pop()
        full = ROOT / path
        if not full.exists() or found.get_file_from_path(path):
            continue
        if path.endswith((*_PAGES, *_IMAGES)):
            found.append(File(path, **place))
        else:
            found.append(Shown(path, dest_uri=f"{path}.html", **place))
        if path.endswith(".md"):
            waiting += _links(path, full.read_text(encoding="utf-8"))
    for module, page in _modules().items():
        content = f"# {module}\n\n::: {module}\n"
        found.append(File.generated(config, page, content=content))
    return found


def on_page_read_source(page: Page, config: MkDocsConfig) -> str | None:
    """Show a file as a code block and a folder as a list."""
    if not isinstance(page.file, Shown):
        return None
    path = ROOT / page.file.src_uri
    if path.is_dir():
        names = sorted(entry.name + "/" * entry.is_dir() for entry in path.iterdir())
        shown = "\n".join(f"- `{name}`" for name in names if not name.startswith((".", "__")))
    else:
        language = {".yml": "yaml", ".yaml": "yaml", ".py": "python", ".toml": "toml"}
        text = path.read_text(encoding="utf-8").rstrip("\n")
        shown = f"````{language.get(path.suffix, 'text')}\n{text}\n````"
    return f"---\nhide: [toc]\n---\n# `{page.file.src_uri}`\n\n{shown}\n"


def _modules() -> dict[str, str]:
    """Names of the public modules within the project's package, with their pages."""
    found = {}
    for path in sorted(SOURCES.glob("*/**/*.py")):
        place = path.relative_to(SOURCES).with_suffix("")
        package = place.name == "__init__"
        name = ".".join((place.parent if package else place).parts)
        if "._" not in name and "." in name:
            page = place.with_name("index") if package else place
            found[name] = f"{REFERENCE}/{page.as_posix()}.md"
    return found


def _entries(modules: dict[str, str], within: str | None = None) -> list[Any]:
    """Navigation of the modules within a package: packages unfold, their own page first."""
    entries: list[Any] = []
    for name, page in modules.items():
        package, _, last = name.rpartition(".")
        if package == within or (within is None and "." not in package):
            below = _entries(modules, name)
            entries.append({last: [page, *below] if below else page})
    return entries


def _pages(nav: Any) -> Iterator[str]:
    """Paths that stand in a navigation."""
    if isinstance(nav, str):
        yield nav
    else:
        for entry in nav.values() if isinstance(nav, dict) else nav:
            yield from _pages(entry)


def _links(page: str, text: str) -> Iterator[str]:
    """Paths in the repository that a page's text links to."""
    for match in _LINK.finditer(text):
        link = urlsplit(match[1] or match[2])
        if link.path and not link.scheme and not link.netloc:
            path = posixpath.normpath(posixpath.join(posixpath.dirname(page), unquote(link.path)))
            if not path.startswith(".."):
                yield path
