"""Take the images of the documentation that a browser draws.

    python scripts/draw_images.py dag               # docs/images/dag.png: stages in Kedro-Viz
    python scripts/draw_images.py report PAGE       # docs/images/report.png: the top of a report

Needs the extra `dev` and Chromium. `scripts/draw_model.py` draws the model.
"""

from __future__ import annotations

import argparse
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
    from playwright.sync_api import Browser, Page

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs/images"
MARGIN = 24  # pixels around the graph and below the table
WIDTH = 1000  # pixels of a report

_FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)


def find_chromium() -> str | None:
    """Path of Chromium or Chrome, None where neither is installed."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next(filter(None, map(shutil.which, names)), None)


@contextmanager
def browser() -> Iterator[Browser]:
    """A running Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=find_chromium(), args=_FLAGS.split())
        try:
            yield running
        finally:
            running.close()


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
    handler = functools.partial(_QuietHandler, directory=build)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server, browser() as running:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page = running.new_page(viewport={"width": 1300, "height": 1100}, device_scale_factor=scale)
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
            server.shutdown()


def draw_dag(image: Path) -> None:
    """Draw link prediction as Kedro-Viz shows it: its stages, without what is not the method."""
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
        page.screenshot(
            path=image,
            clip={
                "x": box["x"] - MARGIN,
                "y": box["y"] - MARGIN,
                "width": box["width"] + 2 * MARGIN,
                "height": box["height"] + 2 * MARGIN,
            },
        )


def draw_report(report: Path, image: Path) -> None:
    """Draw the top of a report, its first table included.

    Args:
        report: The report's `index.html`.
        image: File to write.
    """
    with browser() as running:
        page = running.new_page(
            viewport={"width": WIDTH, "height": 800}, device_scale_factor=1.5, color_scheme="light"
        )
        page.goto(report.resolve().as_uri())
        table = page.locator("table").first.bounding_box()
        height = table["y"] + table["height"] + MARGIN
        page.screenshot(
            path=image, full_page=True, clip={"x": 0, "y": 0, "width": WIDTH, "height": height}
        )


def main() -> None:
    """Draw what the command line asks for."""
    parser = argparse.ArgumentParser(description="Take images of the documentation.")
    commands = parser.add_subparsers(dest="image", required=True)
    commands.add_parser("dag", help="the stages of link prediction")
    report = commands.add_parser("report", help="the top of a report")
    report.add_argument("page", type=Path, help="index.html of the report")
    arguments = parser.parse_args()
    IMAGES.mkdir(exist_ok=True)
    image = IMAGES / f"{arguments.image}.png"
    if arguments.image == "report":
        draw_report(arguments.page, image)
    else:
        draw_dag(image)


if __name__ == "__main__":
    main()
