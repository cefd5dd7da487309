"""Nodes of the stage ``completion``."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from mkgformer_kedro.errors import DataError, Problem
from mkgformer_kedro.inference.parameters import (
    AskingParameters,
    CompletionParameters,
    QuestionParameters,
)
from mkgformer_kedro.launch import LaunchParameters, engine_of
from mkgformer_kedro.training.parameters import ModelParameters

if TYPE_CHECKING:
    from scipy.sparse import csr_array

logger = logging.getLogger(__name__)


def plan_completion(
    models: Path,
    triples: pd.DataFrame,
    entities: pd.DataFrame,
    relations: pd.DataFrame,
    parameters: CompletionParameters,
    seed: int,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Decide from the graph which questions are worth asking.

    Returns:
        The questions, and how many they are and what they cover.

    Raises:
        DataError: The model is of another graph, or a relation that is to be asked is not there.
    """
    from mkgformer_kedro.inference.completion import plan_questions

    questions, _, report = plan_questions(
        triples,
        len(entities),
        relations["relation"].tolist(),
        parameters.questions,
        seed,
        _neighbours(models, triples, len(entities), parameters.questions),
    )
    covered = report["test_triples_covered"]["either"]
    logger.info(
        "%d of %d pairs are asked%s",
        report["asked"],
        report["all_pairs"],
        "" if covered is None else f", which covers {100 * covered:.0f} % of the test triples",
    )
    return questions, report


def _neighbours(
    models: Path, triples: pd.DataFrame, entities: int, parameters: QuestionParameters
) -> csr_array | None:
    """Neighbours of the entities that train lacks, by the embeddings of the first seed's model."""
    from mkgformer_kedro.inference.completion import nearest_seen
    from mkgformer_kedro.inference.experts import seed_folders
    from mkgformer_kedro.training.model_folder import load_entity_embeddings

    if parameters.unseen_neighbours is None:
        return None
    _, folder = seed_folders(models)[0]
    embeddings = load_entity_embeddings(folder)
    if len(embeddings) != entities:
        what = f"the model has {len(embeddings)} entities, the graph {entities}"
        raise DataError(Problem(str(folder), None, what, "Run the stage finetuning."))
    train = triples[triples["split"] == "train"]
    return nearest_seen(embeddings, train, parameters.unseen_neighbours)


def propose_triples(
    mixture: Path,
    models: Path,
    structure_models: Path,
    questions: pd.DataFrame,
    triples: pd.DataFrame,
    entities: pd.DataFrame,
    relations: pd.DataFrame,
    visual_store: Path,
    work_folder: Path,
    model: ModelParameters,
    asking: AskingParameters,
    parameters: CompletionParameters,
    launch: LaunchParameters,
) -> pd.DataFrame:
    """Ask the mixture.

    Returns:
        The best answers that train does not know, a row each.
    """
    from mkgformer_kedro.inference.completion import Roles, propose
    from mkgformer_kedro.inference.experts import TrainedModels, load_experts

    trained = TrainedModels.of(models, visual_store, model, asking)
    *_, mixed = load_experts(trained, structure_models, mixture)
    train = triples[triples["split"] == "train"]
    neighbours = _neighbours(models, triples, len(entities), parameters.questions)
    roles = Roles.from_train(train, len(entities), len(relations), parameters.questions, neighbours)
    engine = engine_of(launch)
    return propose(mixed, questions, triples, roles, work_folder, parameters, engine)


def keep_completions(
    proposals: pd.DataFrame,
    plan: dict[str, Any],
    triples: pd.DataFrame,
    entities: pd.DataFrame,
    relations: pd.DataFrame,
    parameters: CompletionParameters,
    seed: int,
) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, Any]]:
    """Give each proposed triple a probability, judge the probable, and keep those that are new.

    Returns:
        The completions, twice (for two formats), and the report.
    """
    from mkgformer_kedro.evaluation.calibration import times_odds
    from mkgformer_kedro.inference.completion import functional_relations
    from mkgformer_kedro.inference.keeping import (
        calibrate_proposals,
        hidden_to_dev,
        join_directions,
        judge_completions,
        name_completions,
        open_proposals,
        rank_proposals,
    )

    joined = join_directions(proposals, triples)
    calibrator = calibrate_proposals(joined, len(relations), seed)
    of_dev = calibrator.probabilities(
        *(joined[name].to_numpy() for name in ("log_odds", "found_by", "relation"))
    )
    joined["probability"] = times_odds(of_dev, hidden_to_dev(triples))
    train = triples[triples["split"] == "train"]
    functional = functional_relations(train, len(relations), parameters.questions)
    keep = parameters.keep
    improbable_too = rank_proposals(joined, keep.model_copy(update={"probability": None}))
    new = open_proposals(improbable_too, functional, triples)
    kept = rank_proposals(joined, keep).head(keep.best)
    report = {
        "questions": plan,
        "keep": keep.model_dump(),
        "highest": float(new["probability"].max()) if len(new) else 0.0,
        **judge_completions(joined, kept, triples, calibrator),
    }
    completions = name_completions(
        new[new["probability"] >= (keep.probability or 0)].head(keep.best),
        entities["entity"].tolist(),
        relations["relation"].tolist(),
    )
    logger.info("%d links that the graph lacks are kept", len(completions))
    return completions, completions, report


def publish_completions(
    completions: pd.DataFrame,
    report: dict[str, Any],
    triples: pd.DataFrame,
    entities: pd.DataFrame,
    relations: pd.DataFrame,
    visual_store: Path,
    ingestion_report: dict[str, Any],
    parameters: CompletionParameters,
) -> tuple[str, str]:
    """Write the completions for other programs and for people.

    Returns:
        Turtle, and a page to review them.
    """
    from mkgformer_kedro.datasets.visual_store import VisualStore
    from mkgformer_kedro.evaluation.report.completions import render_completions
    from mkgformer_kedro.inference.keeping import completions_as_rdf

    publication = parameters.publication
    is_rdf = ingestion_report.get("layout") == "rdf"
    turtle = completions_as_rdf(completions, publication, is_rdf=is_rdf)
    page = render_completions(
        completions,
        report,
        triples,
        entities,
        relations,
        VisualStore(visual_store).images,
        data_set=ingestion_report["data_set"],
        shown=publication.page_completions,
        images_shown=publication.page_images,
        nearest=publication.nearest,
    )
    return turtle, page
