"""Draw docs/images/dag.png: link prediction as Kedro-Viz shows it, its five stages collapsed.

Usage: python scripts/draw_dag.py    (needs the extra `dev` and Chromium)
"""

from __future__ import annotations

import functools
import http.server
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Page

ROOT = Path(__file__).parents[1]
IMAGE = ROOT / "docs/images/dag.png"
MARGIN = 24  # pixels around the graph

_FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)


def find_chromium() -> str | None:
    """Path of Chromium or Chrome, None where neither is installed."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next(filter(None, map(shutil.which, names)), None)


class _QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextmanager
def opened(build: Path, scale: float = 1, **settings: object) -> Iterator[Page]:
    """Serve what ``kedro viz build`` has built, and open its chart of link prediction.

    Args:
        build: The folder that Kedro-Viz built.
        scale: Pixels of the image to one of the page.
        **settings: What Kedro-Viz keeps in the browser's storage, such as ``orientation``.

    Yields:
        The page, when it shows the chart.
    """
    from playwright.sync_api import sync_playwright

    handler = functools.partial(_QuietHandler, directory=build)
    with (
        http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server,
        sync_playwright() as playwright,
    ):
        threading.Thread(target=server.serve_forever, daemon=True).start()
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=_FLAGS.split())
        page = browser.new_page(viewport={"width": 1300, "height": 1100}, device_scale_factor=scale)
        stored = json.dumps(json.dumps({"showFeatureHints": False, "theme": "light", **settings}))
        page.add_init_script(f"localStorage.setItem('KedroViz', {stored})")
        page.goto(f"http://127.0.0.1:{server.server_port}/?pid=link_prediction")
        page.locator(".pipeline-node").first.wait_for()
        if not settings.get("expandAllPipelines"):
            # The task is one box until its row in the sidebar is unfolded: then its stages are.
            arrows = page.locator(".MuiTreeItem-iconContainer", has=page.locator("svg"))
            arrows.first.dispatch_event("click")
            page.locator(".pipeline-node--modularPipeline >> nth=1").wait_for()
        try:
            yield page
        finally:
            browser.close()
            server.shutdown()


def main() -> None:
    """Build, open, hide what says nothing of the method, and take the image."""
    subprocess.run([sys.executable, "-m", "kedro", "viz", "build"], cwd=ROOT, check=True)
    nodes = json.loads((ROOT / "build/api/main").read_text())["nodes"]
    work_folders = {node["id"]: True for node in nodes if node["name"].endswith("_work")}
    hidden = {
        "node": {"disabled": work_folders},
        "layer": {"visible": False},
        "isPrettyName": True,
        "visible": {"graph": True, "sidebar": False, "miniMap": False},
    }
    with opened(ROOT / "build", scale=1.25, **hidden) as page:
        page.wait_for_timeout(2_000)  # the chart glides into its place
        box = page.locator("#pipeline-graph #zoom-wrapper").bounding_box()
        IMAGE.parent.mkdir(exist_ok=True)
        page.screenshot(
            path=IMAGE,
            clip={
                "x": box["x"] - MARGIN,
                "y": box["y"] - MARGIN,
                "width": box["width"] + 2 * MARGIN,
                "height": box["height"] + 2 * MARGIN,
            },
        )


if __name__ == "__main__":
    main()
