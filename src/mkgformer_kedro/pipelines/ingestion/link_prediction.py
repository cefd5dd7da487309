"""Nodes that turn a graph's raw files into tables for link prediction."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from kedro.pipeline import Node

from mkgformer_kedro.datasets.graph_folder import RawGraph
from mkgformer_kedro.datasets.graph_split import SplitParameters, split_triples
from mkgformer_kedro.datasets.text_files import SPLITS
from mkgformer_kedro.errors import DataError, Problem
from mkgformer_kedro.pipelines.ingestion.checks import (
    check_counts,
    described_files,
    quarantine_table,
    require_every_split,
    unexpected_counts,
)
from mkgformer_kedro.pipelines.ingestion.parameters import IngestionParameters

if TYPE_CHECKING:
    from mkgformer_kedro.training.tasks.base import Task

logger = logging.getLogger(__name__)

# Share of ids in common, of either side, below which texts and triples are of different graphs.
_OF_THIS_GRAPH = 0.05
# What all entities are called where they are described by nothing.
_NO_TEXT = "entity"
_HOW_TO_ALLOW = (
    "write link_prediction: {{ingestion: {{{}: {:g}}}}} into "
    "conf/<data set>/parameters_link_prediction.yml (null: any share)."
)

_RELATIONS_OF_A_FEW_ENTITIES = 20  # so many may be more than heads or tails

# direction -> (column of the known entity, column of the answers)
_DIRECTIONS = {"tail": ("head", "tail"), "head": ("tail", "head")}


def index_graph(
    raw: RawGraph, parameters: IngestionParameters
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Number a graph's entities and relations and write its triples in these numbers.

    Args:
        raw: The graph as its files say it.
        parameters: What to do about bad lines, and what the graph must be like.

    Returns:
        The tables ``entities``, ``relations``, ``triples`` (each distinct triple of a split once)
        and ``quarantine`` (``file``, ``line``, ``what`` of every line left out).

    Raises:
        DataError: There are bad lines and they are not to be quarantined; a split is empty; the
            texts are those of another graph; the counts are not the published ones; more triples
            are in two splits or leak than may.
    """
    problems = list(raw.problems)
    entity_texts = _texts(raw, "entity_texts", "entity", problems)
    long_texts = _texts(raw, "entity_long_texts", "entity", problems)
    relation_texts = _texts(raw, "relation_texts", "relation", problems)
    if parameters.candidates == "entity_texts":
        entity_ids = pd.Index(entity_texts.index, name="entity")
    else:
        entity_ids = _ids(raw, "entities", "entity", ["head", "tail"], problems)
    relation_ids = _ids(raw, "relations", "relation", ["relation"], problems)

    indices = {
        column: (relation_ids if column == "relation" else entity_ids).get_indexer(
            raw.triples[column]
        )
        for column in ("head", "relation", "tail")
    }
    triples = pd.DataFrame(indices, dtype="int32").assign(split=raw.triples["split"])
    known = np.logical_and.reduce([positions >= 0 for positions in indices.values()])
    problems += _unknown_ids(raw, indices, known, parameters)
    if "split_by_this_project" in raw.facts and not known.all():
        # What is left out may be all that train had of an entity.
        settings = SplitParameters(**raw.facts["split_by_this_project"])
        triples.loc[known, "split"] = split_triples(triples[known], settings)

    if problems and parameters.on_bad_lines == "stop":
        raise DataError(problems)
    _check_columns(raw)
    triples = triples[known].drop_duplicates(ignore_index=True)
    splits = set(triples["split"])
    if "split_by_this_project" in raw.facts and splits and splits != set(SPLITS):
        what = (
            "it cannot be split: too few pairs of entities are left of which both entities and all "
            "relations have another triple"
        )
        remedy = "Give files.train, files.dev and files.test in place of files.graph."
        raise DataError(Problem(str(raw.folder / raw.files["train"]), None, what, remedy))
    require_every_split(
        raw.folder,
        raw.files,
        splits,
        "triples",
        "head <tab> relation <tab> tail",
    )
    triples["leak"] = _leaks(triples)
    _check_texts(raw, entity_ids, relation_ids)

    entities = _describe_entities(raw, entity_ids, entity_texts, long_texts, parameters)
    relations = pd.DataFrame({"relation": relation_ids})
    relations["text"] = relations["relation"].map(relation_texts).fillna(relations["relation"])
    check_counts(
        raw.folder,
        _counts(entities, relations, triples),
        parameters.expected_counts.published(),
        parameters.on_unexpected_counts,
        "link_prediction.ingestion",
    )
    _check_overlap(raw, triples, parameters)
    _check_leak(raw, triples, parameters)
    return entities, relations, triples, quarantine_table(raw.folder, problems)


def _check_columns(raw: RawGraph) -> None:
    """Refuse columns in another order, where no list of relations tells and RDF does not say."""
    counts = raw.triples[["head", "relation", "tail"]].nunique()
    most = max(_RELATIONS_OF_A_FEW_ENTITIES, min(counts["head"], counts["tail"]))
    if raw.relations is None and not raw.texts_are_names and counts["relation"] > most:
        what = (
            f"{counts['head']:,} heads, {counts['relation']:,} relations, {counts['tail']:,} tails "
            "are those of columns in another order"
        )
        remedy = "Write head <tab> relation <tab> tail; if they are that, list the relations in a "
        remedy += "file, and name it as `relations` in globals.yml."
        raise DataError(Problem(str(raw.folder / raw.files["train"]), None, what, remedy))


def group_queries(triples: pd.DataFrame) -> pd.DataFrame:
    """Group triples into distinct queries (entity, relation, ?) and (?, relation, entity).

    Args:
        triples: ``head``, ``relation``, ``tail`` (int32 indices) and ``split``.

    Returns:
        One row per distinct (split, direction, entity, relation), in this order, with the sorted
        int32 arrays ``answers`` (in this split) and ``known`` (in any split).
    """
    tables = []
    for direction, (known_entity, answer) in _DIRECTIONS.items():
        columns = {known_entity: "entity", "relation": "relation", answer: "answer"}
        facts = triples[[*columns, "split"]].rename(columns=columns)
        everywhere = _answer_lists(facts.drop(columns="split").drop_duplicates())
        for split in SPLITS:
            queries = _answer_lists(facts[facts["split"] == split])
            queries.insert(0, "split", split)
            queries.insert(1, "direction", direction)
            positions = _keys(everywhere).get_indexer(_keys(queries))
            queries["known"] = everywhere["answers"].to_numpy()[positions]
            tables.append(queries)
    tables.sort(key=lambda queries: SPLITS.index(queries["split"].iat[0]))
    return pd.concat(tables, ignore_index=True)


def report_ingestion(
    raw: RawGraph,
    entities: pd.DataFrame,
    relations: pd.DataFrame,
    triples: pd.DataFrame,
    queries: pd.DataFrame,
    quarantine: pd.DataFrame,
    parameters: IngestionParameters,
) -> dict[str, Any]:
    """Say what the data is like: counts, texts, duplicates, overlap, leaks, unseen entities.

    Args:
        raw: The graph as its files say it.
        entities: Table of entities.
        relations: Table of relations.
        triples: Table of triples.
        queries: Table of queries.
        quarantine: Lines left out.
        parameters: Holds the published counts.

    Returns:
        Plain values, ready for JSON.
    """
    counts = _counts(entities, relations, triples)
    published = parameters.expected_counts.published()
    by_split = {split: triples[triples["split"] == split] for split in SPLITS}
    overlap = _triples_in_two_splits(triples)
    seen = {
        split: np.unique(table[["head", "tail"]].to_numpy()) for split, table in by_split.items()
    }
    unseen = {
        split: np.setdiff1d(seen[split], seen["train"]) for split in SPLITS if split != "train"
    }
    repeated = raw.triples.duplicated(["split", "head", "relation", "tail"])
    sources = {"long": "entity_long_texts", "short": "entity_texts", "name": "entity_texts"}
    files = {source: raw.files.get(role) for source, role in sources.items()}
    report = {
        "data_set": raw.folder.name,
        "counts": counts,
        "published_counts": published,
        "unexpected_counts": unexpected_counts(counts, published),
        "queries": {
            split: int(count) for split, count in queries["split"].value_counts(sort=False).items()
        },
        "entity_texts": {
            source: {"entities": int(count), "file": files.get(source)}
            for source, count in entities["text_source"].value_counts(sort=False).items()
        },
        "entities_without_text": int((~entities["entity"].isin(raw.entity_texts["entity"])).sum()),
        "relations_without_text": int(
            (~relations["relation"].isin(raw.relation_texts["relation"])).sum()
        ),
        "entities_sharing_a_name": int(entities["name"].duplicated(keep=False).sum()),
        "relations_sharing_a_text": int(relations["text"].duplicated(keep=False).sum()),
        "duplicate_triples": {
            split: int(repeated[raw.triples["split"] == split].sum()) for split in SPLITS
        },
        "self_loops": {
            split: int((table["head"] == table["tail"]).sum()) for split, table in by_split.items()
        },
        "triples_in_two_splits": {f"{one}_{other}": n for (one, other), n in overlap.items()},
        "inverse_leak": {split: float(by_split[split]["leak"].mean()) for split in ("dev", "test")},
        "entities_unseen_in_train": {split: len(ids) for split, ids in unseen.items()},
        "triples_with_unseen_entities": {
            split: int(by_split[split][["head", "tail"]].isin(ids).any(axis=1).sum())
            for split, ids in unseen.items()
        },
        "quarantined_lines": len(quarantine),
        "files": described_files(raw.digests, raw.verified),
        **raw.facts,
    }
    logger.info(
        "%(entities)s entities, %(relations)s relations, %(train)s / %(dev)s / %(test)s triples",
        {name: f"{count:,}" for name, count in counts.items()},
    )
    logger.info(
        "%.1f %% of the test triples have their reverse in train; train lacks %d test entities",
        100 * report["inverse_leak"]["test"],
        report["entities_unseen_in_train"]["test"],
    )
    if loops := sum(report["self_loops"].values()):
        logger.info("Triples that link an entity with itself: %s", f"{loops:,}")
    return report


def _texts(raw: RawGraph, role: str, column: str, problems: list[Problem]) -> pd.Series:
    """Text by id. Of an id that is there twice the first text counts."""
    table = getattr(raw, role)
    if table is None:
        return pd.Series(dtype="str")
    return _without_repeats(raw, table, column, problems).set_index(column)["text"]


def _ids(
    raw: RawGraph, role: str, column: str, of_triples: list[str], problems: list[Problem]
) -> pd.Index:
    """Ids in the order of their file, or as the triples name them where there is no file."""
    table = getattr(raw, role)
    if table is None:
        return pd.Index(pd.unique(raw.triples[of_triples].stack()), name=column)
    return pd.Index(_without_repeats(raw, table, column, problems)[column])


def _without_repeats(
    raw: RawGraph, table: pd.DataFrame, column: str, problems: list[Problem]
) -> pd.DataFrame:
    repeats = table[table.duplicated(column)]
    first_lines = table.drop_duplicates(column).set_index(column)["line"]
    for name, file, line in repeats[[column, "file", "line"]].itertuples(index=False):
        what = f"{column} '{name}' is there already, on line {first_lines[name]}"
        problems.append(Problem(str(raw.folder / file), line, what, "Drop one of the two lines."))
    return table.drop_duplicates(column)


def _unknown_ids(
    raw: RawGraph,
    indices: dict[str, np.ndarray],
    known: np.ndarray,
    parameters: IngestionParameters,
) -> list[Problem]:
    """A problem for each triple that names an entity or relation the graph does not have."""
    home = {
        column: _home(raw, "relations" if column == "relation" else parameters.candidates)
        for column in indices
        if (indices[column] < 0).any()
    }
    problems = []
    for row in np.flatnonzero(~known):
        triple = raw.triples.iloc[row]
        column = next(column for column in indices if indices[column][row] < 0)
        kind = "relation" if column == "relation" else "entity"
        problems.append(
            Problem(
                str(raw.folder / triple["file"]),
                int(triple["line"]),
                f"unknown {kind} '{triple[column]}'",
                f"Add it to {home[column]}, or correct or drop the triple.",
            )
        )
    return problems


def _home(raw: RawGraph, role: str) -> str:
    return raw.files.get(role, f"a file, and name it as {role} in globals.yml")


def _leaks(triples: pd.DataFrame) -> np.ndarray:
    from mkgformer_kedro.evaluation.ranking.graph import reverse_in_train

    return reverse_in_train(triples[triples["split"] == "train"], triples)


def _describe_entities(
    raw: RawGraph,
    ids: pd.Index,
    texts: pd.Series,
    long_texts: pd.Series,
    parameters: IngestionParameters,
) -> pd.DataFrame:
    """Name and text of each entity: the long text, else the short one, else the name, if told so.

    A text that only repeats the name is none. Where the graph links images, the column
    ``image_links`` lists each entity's.
    """
    entities = pd.DataFrame({"entity": ids})
    short = entities["entity"].map(texts).fillna(entities["entity"])
    long = entities["entity"].map(long_texts)
    name = short
    if parameters.entity_texts == "name_and_description" and not raw.texts_are_names:
        name = short.str.split(",", n=1).str[0].str.strip()
        name = name.where(name != "", short)
    has_long = long.notna() & (long != name)
    entities["name"] = name
    match parameters.described_by:
        case "description":
            entities["text"] = long.where(has_long, short)
            source = np.select([has_long, short != name], ["long", "short"], "name")
        case "name":
            entities["text"], source = name, "name"
        case "nothing":
            entities["text"], source = _NO_TEXT, "none"
    entities["text_source"] = source
    entities = entities.astype("str")
    if raw.image_links is not None and len(raw.image_links):
        links = raw.image_links.groupby("entity", sort=False)["path"].agg(list)
        entities["image_links"] = [links.get(entity, []) for entity in ids]
    return entities


def _counts(
    entities: pd.DataFrame, relations: pd.DataFrame, triples: pd.DataFrame
) -> dict[str, int]:
    splits = triples["split"].value_counts()
    return {
        "entities": len(entities),
        "relations": len(relations),
        **{split: int(splits[split]) for split in SPLITS},
    }


def _check_texts(raw: RawGraph, entities: pd.Index, relations: pd.Index) -> None:
    """Stop where texts and triples hardly know one id in common: they are of two graphs."""
    problems = []
    for role, ids in (
        (
            "entity_texts",
            entities.union(pd.Index(pd.unique(raw.triples[["head", "tail"]].stack()))),
        ),
        ("entity_long_texts", entities),
        ("relation_texts", relations),
    ):
        table = getattr(raw, role)
        if table is None or table.empty or ids.empty:
            continue
        column = table.columns[0]
        places = ids.get_indexer(table[column])
        known = places >= 0
        with_text = len(np.unique(places[known])) / len(ids)
        if max(known.mean(), with_text) < _OF_THIS_GRAPH:
            what = (
                f"the texts of another graph: {known.sum():,} of {len(table):,} ids are known "
                f"(here: '{table[column].iat[0]}'; in the triples: '{ids[0]}')"
            )
            remedy = f"Name this graph's file as {role} in globals.yml, or null to go without."
            problems.append(Problem(str(raw.folder / raw.files[role]), None, what, remedy))
    if problems:
        raise DataError(problems)


def _triples_in_two_splits(triples: pd.DataFrame) -> dict[tuple[str, str], int]:
    """Triples of the later split that are in the earlier one, too."""
    facts = {
        split: pd.MultiIndex.from_frame(
            triples.loc[triples["split"] == split, ["head", "relation", "tail"]]
        )
        for split in SPLITS
    }
    return {
        (one, other): int(facts[other].isin(facts[one]).sum())
        for one, other in (("train", "dev"), ("train", "test"), ("dev", "test"))
    }


def _check_overlap(raw: RawGraph, triples: pd.DataFrame, parameters: IngestionParameters) -> None:
    allowed = parameters.max_split_overlap
    if allowed is None:
        return
    sizes = triples["split"].value_counts()
    problems = []
    for (one, other), count in _triples_in_two_splits(triples).items():
        share = count / sizes[other]
        if share > allowed:
            what = (
                f"{count:,} of the {other} triples ({share:.1%}) stand in {one}, too, more than "
                f"the {allowed:.1%} that may"
            )
            let_pass = _let_pass(share, "split_overlap")
            remedy = f"Take them out of one split, or let them pass: {let_pass}"
            problems.append(Problem(str(raw.folder / raw.files[other]), None, what, remedy))
    if problems:
        raise DataError(problems)


def _check_leak(raw: RawGraph, triples: pd.DataFrame, parameters: IngestionParameters) -> None:
    share = triples.loc[triples["split"] == "test", "leak"].mean()
    allowed = parameters.max_inverse_leak
    if allowed is not None and share > allowed:
        raise DataError(
            Problem(
                str(raw.folder / raw.files["test"]),
                None,
                f"{share:.1%} of the test triples have their reverse in train, more than the "
                f"{allowed:.1%} that may",
                "Split the graph so that no pair of entities is in train and test (give it as one "
                f"file, files.graph), or let them pass: {_let_pass(share, 'inverse_leak')}",
            )
        )


def _let_pass(share: float, what: str) -> str:
    """The line of YAML that lets a share pass, rounded up so that it does."""
    enough = min(1.0, np.ceil(share * 1000) / 1000)
    return _HOW_TO_ALLOW.format(f"max_{what}", enough)


def _answer_lists(facts: pd.DataFrame) -> pd.DataFrame:
    """One row per distinct (entity, relation) with its sorted answers."""
    facts = facts.sort_values(["entity", "relation", "answer"], ignore_index=True)
    first = ~facts.duplicated(["entity", "relation"])
    lists = np.split(facts["answer"].to_numpy(), np.flatnonzero(first)[1:])
    queries = facts.loc[first, ["entity", "relation"]].reset_index(drop=True)
    return queries.assign(answers=pd.Series(lists, dtype=object))


def _keys(queries: pd.DataFrame) -> pd.MultiIndex:
    return pd.MultiIndex.from_frame(queries[["entity", "relation"]])


def nodes(task: type[Task]) -> list[Node]:
    """The stage's nodes: from the files of a graph to validated tables and a report."""
    return [
        Node(
            func=index_graph,
            inputs=["raw_graph", "params:ingestion"],
            outputs=["entities", "relations", "triples", "quarantine"],
            name="index_graph",
        ),
        Node(
            func=group_queries,
            inputs="triples",
            outputs="queries",
            name="group_queries",
        ),
        Node(
            func=report_ingestion,
            inputs=[
                "raw_graph",
                "entities",
                "relations",
                "triples",
                "queries",
                "quarantine",
                "params:ingestion",
            ],
            outputs="ingestion_report",
            name="report_ingestion",
        ),
    ]
