"""The page of a graph's audit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mkgformer_kedro.evaluation.report.page import render_template
from mkgformer_kedro.evaluation.verdicts import Verdict

_SPLIT_ROWS = {
    "in_train": "stand in train, word for word",
    "in_dev": "stand in dev, word for word",
    "in_test": "stand in test, word for word",
    "reverse_in_train": "have their reverse in train, by any relation",
    "linked_in_train": "join two entities that train joins, either way round",
    "given_away": "follow from a train triple by an inverse, symmetric or double relation",
    "constant_relation": "are of a relation with nearly always the same head or tail",
    "unseen_entities": "have an entity that train lacks",
    "unseen_relation": "have a relation that train lacks",
}


def render_graph_audit(
    audit: Mapping[str, Any],
    verdicts: Sequence[Verdict],
    *,
    data_set: str,
    near: float,
    facts: Mapping[str, Any],
) -> str:
    """Write the page of an audit.

    Args:
        audit: What :func:`~mkgformer_kedro.evaluation.ranking.graph_audit.audit_graph` found.
        verdicts: What it means.
        data_set: Name of the data set.
        near: Share from which relations are near-inverse, near-duplicate or constant.
        facts: What else is known about the data, by section.

    Returns:
        A self-contained HTML page.
    """
    return render_template(
        "audit.html.j2",
        {
            "data_set": data_set,
            "audit": audit,
            "verdicts": verdicts,
            "split_rows": _SPLIT_ROWS,
            "texts": {row["relation"]: row["text"] for row in audit["relations"]},
            "near": near,
            "facts": facts,
        },
    )
