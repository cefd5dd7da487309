"""Kedro-Viz in a browser: stages that unfold, layers, and previews of what a run has made."""

import json

import pytest

pytestmark = pytest.mark.whole_run

STAGES = [
    "ingestion",
    "image_association",
    "entity_modeling",
    "structure_modeling",
    "finetuning",
    "evaluation",
]
TABLES = [
    "quarantine",
    "raw_images",
    "images",
    "training_curve",
    "predictions",
    "predictions_baseline",
    "drill_down",
]
TABLES_OF_GRAPHS = [
    "entities",
    "relations",
    "triples",
    "queries",
    "entity_modeling_curve",
    "structure_modeling_curve",
]
TABLES_OF_POSTS = ["posts", "labels"]
TASKS = {
    "link_prediction": TABLES_OF_GRAPHS,
    "relation_extraction": TABLES_OF_POSTS,
    "entity_recognition": TABLES_OF_POSTS,
}
TABLES = [f"{task}.{name}" for task, own in TASKS.items() for name in own + TABLES]
REPORTS = ["ingestion_report", "coverage_report", "metrics"]
REPORTS = [f"{task}.{name}" for task in TASKS for name in REPORTS]
PLOTS = [f"{task}.{name}" for task in TASKS for name in ("contact_sheet", "plot")]


@pytest.fixture(scope="module")
def build(finished_project):
    """What ``kedro viz build`` makes of a finished run."""
    command = ("kedro", "viz", "build", "--include-previews")
    output = finished_project.run("env", "KEDRO_ENV=ci", *command)
    assert "could not be previewed" not in output
    return finished_project.folder / "build"


def names(page, selector=".pipeline-node__text"):
    """Names that are shown, without the namespaces that stand before them."""
    return {text.rpartition(".")[2] for text in page.locator(selector).all_text_contents()}


def test_stages_are_collapsed_and_stand_in_layers(draw_images, build):
    with draw_images.opened(build) as page:
        assert set(STAGES) <= names(page)
        assert {"raw_graph", "visual_store", "models", "metrics"} <= names(page)
        assert "index_graph" not in names(page)
        page.locator(".pipeline-layer-name").first.wait_for()
        layers = names(page, ".pipeline-layer-name")
        assert {"raw", "intermediate", "feature", "models", "reporting"} <= layers


def test_an_expanded_pipeline_shows_nodes_and_their_datasets(draw_images, build):
    with draw_images.opened(build, expandAllPipelines=True) as page:
        page.locator("text=index_graph").first.wait_for()
        shown = names(page)
        assert {"index_graph", "store_images", "finetune_link_prediction"} <= shown
        assert {"images", "quarantine", "predictions", "predictions_baseline"} <= shown


@pytest.mark.parametrize(
    ("kind", "datasets"),
    [("TablePreview", TABLES), ("JSONPreview", REPORTS), ("ImagePreview", PLOTS)],
)
def test_tables_metrics_and_plots_have_previews(build, kind, datasets):
    pages = [build / "api/main", *(build / "api/pipelines").iterdir()]
    nodes = [node for page in pages for node in json.loads(page.read_text())["nodes"]]
    ids = {node["name"]: node["id"] for node in nodes}
    for name in datasets:
        details = json.loads((build / "api/nodes" / ids[name]).read_text())
        assert details["preview_type"] == kind, name
        assert details["preview"], name


def test_a_clicked_table_and_plot_are_shown(draw_images, build):
    with draw_images.opened(build) as page:
        # An event, since the toolbars may lie over a node where a pointer would click.
        page.locator(".pipeline-node", has_text="training_curve").dispatch_event("click")
        page.locator(".preview-table", has_text="learning_rate").wait_for()
        page.locator(".pipeline-node", has_text="link_prediction.plot").dispatch_event("click")
        page.locator("img.pipeline-metadata__plot-image").wait_for()
