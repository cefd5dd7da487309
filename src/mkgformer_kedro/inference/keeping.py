"""Which proposed links of a graph are kept, how probable they are, and how they are handed over.

The dev triples among the proposals calibrate their probabilities, the test triples judge them.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
import pandas as pd

from mkgformer_kedro.datasets.text_files import SPLITS
from mkgformer_kedro.evaluation.calibration import Calibrator, calibration_summary
from mkgformer_kedro.evaluation.ranking.tables import TRIPLE
from mkgformer_kedro.inference.parameters import KeepParameters, PublicationParameters

if TYPE_CHECKING:
    from pyoxigraph import BlankNode, Literal, NamedNode

logger = logging.getLogger(__name__)

FOUND_BY = ("tail", "head", "both")

_THRESHOLDS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
_LIKE_AN_IRI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|urn:")
_VOCABULARY = "urn:mkgformer:completion#"


def join_directions(proposals: pd.DataFrame, triples: pd.DataFrame) -> pd.DataFrame:
    """Proposed triples, whichever direction proposed them.

    Args:
        proposals: Of :func:`mkgformer_kedro.inference.completion.propose`.
        triples: Table ``triples``.

    Returns:
        ``head``, ``relation``, ``tail`` (indices), ``found_by`` (number in ``FOUND_BY``),
        ``log_odds`` (mean of the directions that found it), ``in_answer_set`` (of all of them),
        ``score_<expert>`` (mean), and ``split``: where the graph has it, ``dev``, ``test``, or
        ``""`` for what is new.
    """
    is_tail = (proposals["direction"] == 0).to_numpy()
    laid_out = proposals.assign(
        head=np.where(is_tail, proposals["entity"], proposals["answer"]),
        tail=np.where(is_tail, proposals["answer"], proposals["entity"]),
    )
    names = [name for name in proposals if name.startswith("score_")]
    joined = laid_out.groupby(TRIPLE, as_index=False, sort=True).agg(
        first=("direction", "min"),
        last=("direction", "max"),
        log_odds=("log_odds", "mean"),
        in_answer_set=("in_set", "all"),
        **{name: (name, "mean") for name in names},
    )
    found_by = np.where(joined["first"] == joined["last"], joined["first"], FOUND_BY.index("both"))
    joined = joined.drop(columns=["first", "last"])
    joined.insert(3, "found_by", found_by.astype(np.int8))
    joined = joined.merge(_held_out(triples), on=TRIPLE, how="left")
    joined["split"] = joined["split"].fillna("").astype(str)
    return joined


def _held_out(triples: pd.DataFrame) -> pd.DataFrame:
    """Triples of dev and test that train lacks, each once: one of both is no hidden one."""
    of_splits = triples[[*TRIPLE, "split"]]
    ordered = of_splits.sort_values("split", key=lambda split: split.map(SPLITS.index))
    return ordered.drop_duplicates(TRIPLE).query("split != 'train'")


def hidden_to_dev(triples: pd.DataFrame) -> float:
    """Hidden triples of test to one of dev; 1 where either has none.

    So much higher than those of a dev triple are the odds of a hidden one, whichever triple is
    proposed, where both were drawn alike.

    Args:
        triples: Table ``triples``.
    """
    split = _held_out(triples)["split"]
    hidden, dev = (int((split == name).sum()) for name in ("test", "dev"))
    return hidden / dev if hidden and dev else 1.0


def calibrate_proposals(joined: pd.DataFrame, relations: int, seed: int) -> Calibrator:
    """Fit probabilities of proposed triples on those that are dev triples.

    What the questions are is decided without looking at their answers, so that most have none that
    anybody wrote down: the probability of a proposal is smaller than among questions that are known
    to have an answer.

    Where no proposal is a dev triple, all that can be said of the probabilities is that they are
    small.

    Args:
        joined: Of :func:`join_directions`; test triples are left out.
        relations: Number of relations.
        seed: Seed of the folds.
    """
    dev = joined[joined["split"] != "test"]
    if not (dev["split"] == "dev").any():
        logger.warning(
            "No dev triple is among the %d proposals: their probabilities are small, and no more "
            "is known of them. Ask more questions, or raise completion.per_question",
            len(dev),
        )
    return Calibrator.fit(
        dev["log_odds"].to_numpy(np.float64),
        (dev["split"] == "dev").to_numpy(),
        dev["found_by"].to_numpy(np.int64),
        dev["relation"].to_numpy(np.int64),
        groups=len(FOUND_BY),
        relations=relations,
        blocks=dev["head"].to_numpy(np.int64),
        seed=seed,
    )


def rank_proposals(joined: pd.DataFrame, keep: KeepParameters) -> pd.DataFrame:
    """All proposals that may be kept, whether test has them or not.

    Args:
        joined: Of :func:`join_directions`, with ``probability``.
        keep: What is kept; its ``best`` is for the caller to take.

    Returns:
        Rows of ``joined``, most probable first. Dev triples are left out, test triples are not.
    """
    ranked = joined[joined["split"] != "dev"]
    if keep.both_directions:
        ranked = ranked[ranked["found_by"] == FOUND_BY.index("both")]
    if keep.probability is not None:
        ranked = ranked[ranked["probability"] >= keep.probability]
    return ranked.sort_values(
        ["probability", "log_odds", *TRIPLE],
        ascending=[False, False, True, True, True],
        ignore_index=True,
    )


def open_proposals(
    ranked: pd.DataFrame, functional: np.ndarray, triples: pd.DataFrame
) -> pd.DataFrame:
    """What of ranked proposals is new, and in no place that a held-out triple fills already.

    This is for what is handed over, and comes behind judgement: probabilities were fitted where
    such places are open, and without the proposals that test contradicts precision is too high.

    Args:
        ranked: Of :func:`rank_proposals`.
        functional: Of :func:`mkgformer_kedro.inference.completion.functional_relations`.
        triples: Table ``triples``.
    """
    closed = ranked["split"].ne("").to_numpy(copy=True)
    held_out = triples[triples["split"] != "train"]
    for number, side in enumerate(("head", "tail")):
        filling = held_out[functional[number][held_out["relation"]]]
        filled = pd.MultiIndex.from_frame(filling[[side, "relation"]])
        closed |= pd.MultiIndex.from_frame(ranked[[side, "relation"]]).isin(filled)
    return ranked[~closed].reset_index(drop=True)


def judge_completions(
    joined: pd.DataFrame, kept: pd.DataFrame, triples: pd.DataFrame, calibrator: Calibrator
) -> dict[str, Any]:
    """Hold proposals against the test triples, which they never saw.

    Args:
        joined: All proposals, with ``probability``.
        kept: The first of :func:`rank_proposals`.
        triples: Table ``triples``.
        calibrator: What made the probabilities.

    Returns:
        Plain values: ``proposed``, ``kept`` (with precision, recall and what is left open),
        ``by_threshold``, ``calibration``.
    """
    hidden = int((_held_out(triples)["split"] == "test").sum())
    judged = joined[joined["split"] != "dev"]
    probability = judged["probability"].to_numpy()
    truth = (judged["split"] == "test").to_numpy()
    return {
        "meaning": "The probability that a proposed triple is one of the hidden triples ("
        + (f"the {hidden:,} of test" if hidden else "as many as dev has: there is no test")
        + "), given that it is not known. What nobody wrote down counts as false: new proposals "
        "that are true are beyond what this can count, so that it errs on the low side.",
        "hidden_triples": hidden,
        "proposed": {
            "triples": len(judged),
            "hidden": int(truth.sum()),
            "recall": _share(truth.sum(), hidden),
            "found_by": {
                name: int((judged["found_by"] == number).sum())
                for number, name in enumerate(FOUND_BY)
            },
        },
        "kept": _at(kept["probability"].to_numpy(), (kept["split"] == "test").to_numpy(), hidden),
        "by_threshold": [
            {"probability": at, **_at(probability[chosen], truth[chosen], hidden)}
            for at in _THRESHOLDS
            for chosen in [probability >= at]
        ],
        "calibration": {
            **calibration_summary(probability, truth),
            "hidden_to_dev": hidden_to_dev(triples),
            "slope": calibrator.slope,
            "isotonic": calibrator.steps is not None,
        },
    }


def _at(probability: np.ndarray, truth: np.ndarray, hidden: int) -> dict[str, Any]:
    return {
        "triples": len(truth),
        "hidden": int(truth.sum()),
        "precision": _share(truth.sum(), len(truth)),
        "mean_probability": float(probability.mean()) if len(probability) else None,
        "recall": _share(truth.sum(), hidden),
        "unjudged": _share((~truth).sum(), len(truth)),
    }


def _share(part: int, whole: int) -> float | None:
    return float(part / whole) if whole else None


def name_completions(
    kept: pd.DataFrame, entities: Sequence[str], relations: Sequence[str]
) -> pd.DataFrame:
    """The table of completions with ids in the place of indices.

    Returns:
        ``head``, ``relation``, ``tail``, ``probability``, ``found_by``, ``in_answer_set`` and
        ``score_<expert>``.
    """
    entity, relation = np.asarray(entities, dtype=object), np.asarray(relations, dtype=object)
    scores = [name for name in kept if name.startswith("score_")]
    return pd.DataFrame(
        {
            "head": pd.Series(entity[kept["head"]], dtype="str"),
            "relation": pd.Series(relation[kept["relation"]], dtype="str"),
            "tail": pd.Series(entity[kept["tail"]], dtype="str"),
            "probability": kept["probability"].to_numpy(np.float32),
            "found_by": pd.Series(np.array(FOUND_BY, dtype=object)[kept["found_by"]], dtype="str"),
            "in_answer_set": kept["in_answer_set"].to_numpy(bool),
            **{name: kept[name].to_numpy(np.float32) for name in scores},
        }
    )


def completions_as_rdf(
    completions: pd.DataFrame, publication: PublicationParameters, *, is_rdf: bool
) -> str:
    """Completions as Turtle, by standard reification.

    Each is an ``rdf:Statement`` with its subject, predicate and object, a probability and whether
    it is in the answer set of its question. The triple itself is not asserted: nobody has accepted
    it yet. The statement's name is made of these three, so that files of several runs go together.

    Args:
        completions: Of :func:`name_completions`.
        publication: Has the namespaces of ids that are no IRIs.
        is_rdf: Whether the graph was read from RDF: ids are the terms that they were read from.
            Otherwise an id is an IRI where it begins as ``scheme://`` or ``urn:`` and is a valid
            one.
    """
    from pyoxigraph import Literal, NamedNode, RdfFormat, Triple, serialize

    from mkgformer_kedro.datasets.rdf_graph import term

    rdf = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
    xsd = "http://www.w3.org/2001/XMLSchema#"
    names = ("type", "Statement", "subject", "predicate", "object")
    kind, statement, *parts = (NamedNode(rdf + name) for name in names)
    double, boolean = NamedNode(xsd + "double"), NamedNode(xsd + "boolean")
    probability, in_set = (NamedNode(_VOCABULARY + n) for n in ("probability", "inAnswerSet"))
    namespaces = (
        publication.entity_namespace,
        publication.relation_namespace,
        publication.entity_namespace,
    )

    def node(name: str, namespace: str) -> NamedNode | BlankNode | Literal:
        if is_rdf:
            return term(name)
        if _LIKE_AN_IRI.match(name):
            with suppress(ValueError):
                return NamedNode(name)
        return NamedNode(namespace + quote(name, safe=""))

    def lines():
        for row in completions.itertuples(index=False):
            ids = (row.head, row.relation, row.tail)
            spo = [node(*each) for each in zip(ids, namespaces, strict=True)]
            key = hashlib.sha256(" ".join(map(str, spo)).encode()).hexdigest()
            subject = NamedNode(f"{_VOCABULARY}{key[:32]}")
            yield Triple(subject, kind, statement)
            for part, value in zip(parts, spo, strict=True):
                yield Triple(subject, part, value)
            yield Triple(subject, probability, Literal(f"{row.probability:.6g}", datatype=double))
            yield Triple(subject, in_set, Literal(str(row.in_answer_set).lower(), datatype=boolean))

    prefixes = {"rdf": rdf, "xsd": xsd, "completion": _VOCABULARY}
    return serialize(lines(), format=RdfFormat.TURTLE, prefixes=prefixes).decode()
