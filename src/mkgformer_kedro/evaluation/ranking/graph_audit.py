"""What a benchmark graph gives away, asks in vain, or says twice, and what that does to scores.

Triples are frames with integer columns ``head``, ``relation``, ``tail``, each triple once a split.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from mkgformer_kedro.evaluation.ranking.graph import relation_categories, reverse_in_train
from mkgformer_kedro.evaluation.ranking.tables import TRIPLE
from mkgformer_kedro.evaluation.verdicts import Verdict

_NOTEWORTHY = 0.05
_EXAMPLES = 10


def related_relations(triples: pd.DataFrame, near: float, least: int) -> pd.DataFrame:
    """Pairs of relations of which one nearly always says what the other says.

    Two relations are near-inverse where the shares of the one's pairs (h, t) that the other has as
    (t, h) and of the other's that the one has are both at least ``near``; near-duplicate likewise
    without turning round; a relation is near-symmetric where it is its own near-inverse. Akrami et
    al. (2020), "Realistic re-evaluation of knowledge graph completion methods", section 4, with
    0.8 for both shares. Triples from an entity to itself are left out: they say nothing of either.

    Args:
        triples: Triples of all splits; each counts once.
        near: Least share.
        least: Relations with fewer triples are left out: theirs could be chance.

    Returns:
        ``kind`` (inverse, symmetric, duplicate), ``one``, ``other`` (relations; the same one twice
        where symmetric), ``triples`` (in common), ``of_one``, ``of_other`` (shares), by triples.
    """
    facts = triples[TRIPLE].drop_duplicates()
    facts = facts[facts["head"] != facts["tail"]].astype("int64")
    sizes = facts.groupby("relation").size()
    facts = facts[facts["relation"].map(sizes) >= least]
    turned = facts.rename(columns={"head": "tail", "tail": "head"})
    tables = []
    for kind, others in (("inverse", turned), ("duplicate", facts)):
        both = facts.merge(others, on=["head", "tail"], suffixes=("", "_other"))
        common = both.groupby(["relation", "relation_other"]).size().rename("triples").reset_index()
        tables.append(common.assign(kind=kind))
    found = pd.concat(tables, ignore_index=True)
    one, other = found["relation"], found["relation_other"]
    symmetric = (one == other) & (found["kind"] == "inverse")
    found["kind"] = found["kind"].where(~symmetric, "symmetric")
    found["of_one"] = found["triples"] / one.map(sizes)
    found["of_other"] = found["triples"] / other.map(sizes)
    kept = (symmetric | (one < other)) & (found[["of_one", "of_other"]] >= near).all(axis=1)
    found = found[kept].rename(columns={"relation": "one", "relation_other": "other"})
    columns = ["kind", "one", "other", "triples", "of_one", "of_other"]
    return found.sort_values("triples", ascending=False, kind="stable")[columns].reset_index(
        drop=True
    )


def given_away(train: pd.DataFrame, triples: pd.DataFrame, related: pd.DataFrame) -> np.ndarray:
    """Mark the triples that follow from one train triple by a related relation.

    Args:
        train: Training triples.
        triples: Triples to check.
        related: What :func:`related_relations` gives.

    Returns:
        Boolean array ``(len(triples),)``.
    """
    both = pd.concat([related, related.rename(columns={"one": "other", "other": "one"})])
    there = pd.MultiIndex.from_frame(train[TRIPLE])
    marked = np.zeros(len(triples), dtype=bool)
    for kind, rows in both.groupby("kind"):
        sides = ["head", "tail"] if kind == "duplicate" else ["tail", "head"]
        for relation, others in rows.groupby("one")["other"]:
            own = np.flatnonzero(triples["relation"] == relation)
            for other in others.unique():
                asked = pd.MultiIndex.from_arrays(
                    [
                        triples[sides[0]].to_numpy()[own],
                        np.full(len(own), other),
                        triples[sides[1]].to_numpy()[own],
                    ]
                )
                marked[own] |= asked.isin(there)
    return marked


def relation_facts(triples: pd.DataFrame, near: float, least: int) -> pd.DataFrame:
    """What each relation is like, over the triples of all splits.

    Args:
        triples: Triples; duplicates count once.
        near: Share of its triples from which one head or tail makes a relation constant.
        least: Number of triples from which it does.

    Returns:
        By relation (index): ``triples``, ``category`` (1-1, 1-n, n-1, n-n), ``functional`` (no head
        has two tails), ``inverse_functional`` (no tail has two heads), ``constant`` (head, tail, or
        null: the side that is nearly always the same), ``constant_share`` (of the most frequent
        head or tail), ``symmetric_share`` (of the triples that are there the other way round),
        ``loops`` (triples from an entity to itself).
    """
    facts = triples[TRIPLE].drop_duplicates()
    grouped = facts.groupby("relation")
    sizes = grouped.size()
    shares = pd.DataFrame(
        {
            side: facts.groupby(["relation", side]).size().groupby("relation").max() / sizes
            for side in ("head", "tail")
        }
    )
    loops = facts["head"] == facts["tail"]
    turned = pd.MultiIndex.from_frame(facts[["tail", "relation", "head"]])
    back = ~loops & turned.isin(pd.MultiIndex.from_frame(facts[TRIPLE]))
    constant = shares.idxmax(axis=1).where((shares.max(axis=1) >= near) & (sizes >= least))
    return pd.DataFrame(
        {
            "triples": sizes,
            "category": relation_categories(facts),
            "functional": sizes == grouped["head"].nunique(),
            "inverse_functional": sizes == grouped["tail"].nunique(),
            "constant": constant,
            "constant_share": shares.max(axis=1),
            "symmetric_share": back.groupby(facts["relation"]).sum() / sizes,
            "loops": loops.groupby(facts["relation"]).sum(),
        }
    )


def split_facts(triples: pd.DataFrame, split: str, related: pd.DataFrame) -> dict[str, int]:
    """How many triples of dev or test are answered in train, or cannot be.

    Args:
        triples: ``head``, ``relation``, ``tail``, ``split``.
        split: The split to look at.
        related: What :func:`related_relations` gives.

    Returns:
        Counts of triples: ``triples``, ``in_<split>`` (word for word, of the other splits),
        ``reverse_in_train`` (h and t the other way round, by any relation), ``linked_in_train`` (h
        and t either way round, by any relation), ``given_away`` (by a related relation),
        ``unseen_entities`` (head or tail is in no train triple), ``unseen_relation``.
    """
    train = triples[triples["split"] == "train"]
    own = triples[triples["split"] == split]
    facts = pd.MultiIndex.from_frame(own[TRIPLE])
    same_way = pd.MultiIndex.from_frame(own[["head", "tail"]]).isin(
        pd.MultiIndex.from_frame(train[["head", "tail"]])
    )
    reverse = reverse_in_train(train, own)
    seen = np.unique(train[["head", "tail"]].to_numpy())
    return {
        "triples": len(own),
        **{
            f"in_{name}": int(facts.isin(pd.MultiIndex.from_frame(rows[TRIPLE])).sum())
            for name, rows in triples.groupby("split", sort=False)
            if name != split
        },
        "reverse_in_train": int(reverse.sum()),
        "linked_in_train": int((reverse | same_way).sum()),
        "given_away": int(given_away(train, own, related).sum()),
        "unseen_entities": int((~own[["head", "tail"]].isin(seen)).any(axis=1).sum()),
        "unseen_relation": int((~own["relation"].isin(train["relation"])).sum()),
    }


def shared_values(values: pd.Series, owners: Sequence[str] | pd.Series) -> dict[str, Any]:
    """Which owners have a value in common.

    Args:
        values: A value of an owner; null is none.
        owners: Its owner, row by row; one may have several values.

    Returns:
        ``owners`` (with any value), ``values`` (distinct), ``shared`` (values with several
        owners), ``sharing`` (owners that have one of these), ``examples`` (the values with most
        owners: ``value``, ``owners``, up to five).
    """
    table = pd.DataFrame({"value": values.to_numpy(), "owner": np.asarray(owners)}).dropna()
    table = table.drop_duplicates()
    sizes = table.groupby("value", sort=False).size().sort_values(ascending=False, kind="stable")
    shared = sizes[sizes > 1]
    of_shared = table[table["value"].isin(shared.index)]
    names = of_shared.groupby("value", sort=False)["owner"].agg(list)
    return {
        "owners": int(table["owner"].nunique()),
        "values": len(sizes),
        "shared": len(shared),
        "sharing": int(of_shared["owner"].nunique()),
        "examples": [
            {"value": str(value), "count": int(count), "owners": names[value][:5]}
            for value, count in shared.head(_EXAMPLES).items()
        ],
    }


def audit_graph(
    triples: pd.DataFrame,
    entities: pd.DataFrame,
    relations: pd.DataFrame,
    duplicates: Mapping[str, int],
    images: pd.DataFrame | None,
    *,
    near: float,
    least: int,
) -> tuple[dict[str, Any], list[Verdict]]:
    """Look for everything that makes a score on a graph mean something else than it seems.

    Args:
        triples: ``head``, ``relation``, ``tail``, ``split``, each triple once a split.
        entities: ``entity``, ``name``, ``text``; the row is the entity's number.
        relations: ``relation``, ``text``; the row is the relation's number.
        duplicates: Repeated lines by split.
        images: ``entity``, ``sha256``, ``perceptual_hash`` (null where not asked for), a row an
            image; None where there are none.
        near: Share from which relations are near-inverse, near-duplicate or constant.
        least: Number of triples from which they are.

    Returns:
        Plain values, ready for JSON, and what they mean, in sentences.
    """
    related = related_relations(triples, near, least)
    of_relations = relation_facts(triples, near, least)
    names = relations["relation"].to_numpy()
    splits = triples["split"].value_counts()
    audit: dict[str, Any] = {
        "counts": {
            "entities": len(entities),
            "relations": len(relations),
            **{split: int(splits.get(split, 0)) for split in ("train", "dev", "test")},
        },
        "duplicates": dict(duplicates),
        "splits": {split: split_facts(triples, split, related) for split in ("dev", "test")},
        "related_relations": [
            {
                "kind": row.kind,
                "one": names[row.one],
                "other": names[row.other],
                "triples": int(row.triples),
                "of_one": round(float(row.of_one), 4),
                "of_other": round(float(row.of_other), 4),
                "exact": bool(row.of_one == 1 and row.of_other == 1),
            }
            for row in related.itertuples()
        ],
        "relations": [
            {
                "relation": names[relation],
                "text": relations["text"].iat[relation],
                "triples": int(row["triples"]),
                "category": row["category"],
                "functional": bool(row["functional"]),
                "inverse_functional": bool(row["inverse_functional"]),
                "constant": None if pd.isna(row["constant"]) else row["constant"],
                "constant_share": round(float(row["constant_share"]), 4),
                "symmetric_share": round(float(row["symmetric_share"]), 4),
                "loops": int(row["loops"]),
            }
            for relation, row in of_relations.sort_values(
                "triples", ascending=False, kind="stable"
            ).iterrows()
        ],
        "names": shared_values(entities["name"], entities["entity"]),
        "texts": shared_values(entities["text"], entities["entity"]),
        "images": None,
    }
    constant = of_relations.index[of_relations["constant"].notna()]
    for split, facts in audit["splits"].items():
        own = triples.loc[triples["split"] == split, "relation"]
        facts["constant_relation"] = int(own.isin(constant).sum())
    if images is not None and len(images):
        audit["images"] = {
            "same_file": shared_values(images["sha256"], images["entity"]),
            "look_alike": shared_values(images["perceptual_hash"], images["entity"]),
        }
    return audit, _verdicts(audit)


def _verdicts(audit: Mapping[str, Any]) -> list[Verdict]:
    """What the audit means for scores."""
    test, entities = audit["splits"]["test"], audit["counts"]["entities"]
    found = [
        *(_overlap(split, facts) for split, facts in audit["splits"].items()),
        _reverse(test),
        _unseen(test),
        _related(audit["related_relations"], test),
    ]
    repeated = sum(audit["duplicates"].values())
    if repeated:
        what = f"{repeated:,} lines repeat a triple of their split; each triple counts once."
        found.append(Verdict(what, "open"))
    constant = test["constant_relation"]
    if constant:
        found.append(
            Verdict(
                f"{_of(constant, test['triples'])} test triples are of relations with nearly "
                "always the same head or tail: asked for that side, a popularity count answers.",
                _weight(constant, test["triples"]),
            )
        )
    texts = audit["texts"]
    if texts["sharing"]:
        found.append(
            Verdict(
                f"{_of(texts['sharing'], entities)} entities share their text with another: "
                "by text alone they cannot be told apart.",
                _weight(texts["sharing"], entities),
            )
        )
    if audit["images"] is not None:
        same, alike = audit["images"]["same_file"], audit["images"]["look_alike"]
        if same["sharing"] or alike["sharing"]:
            found.append(
                Verdict(
                    f"{_of(same['sharing'], same['owners'])} entities with images share one, byte "
                    f"for byte, with another, and {alike['sharing']:,} have one that looks the "
                    "same: such an image tells groups apart, not entities.",
                    _weight(same["sharing"], same["owners"]),
                )
            )
        else:
            found.append(Verdict("No image is shared by two entities.", "good"))
    return found


def _overlap(split: str, facts: Mapping[str, int]) -> Verdict:
    others = [name for name in ("train", "dev") if f"in_{name}" in facts]
    inside = {name: facts[f"in_{name}"] for name in others}
    if not any(inside.values()):
        return Verdict(f"No {split} triple stands in {' or '.join(others)}.", "good")
    where = " and ".join(
        f"{_of(count, facts['triples'])} {split} triples stand in {name}"
        for name, count in inside.items()
        if count
    )
    return Verdict(f"{where}: scores on them measure memory. Take them out of one split.", "bad")


def _reverse(test: Mapping[str, int]) -> Verdict:
    count, linked = test["reverse_in_train"], test["linked_in_train"]
    if not linked:
        return Verdict("No test triple joins two entities that train joins.", "good")
    if not count:
        return Verdict(
            f"No test triple has its reverse in train. {_of(linked, test['triples'])} join two "
            "entities that train joins by another relation.",
            "good",
        )
    return Verdict(
        f"{_of(count, test['triples'])} test triples have their reverse in train, by any relation: "
        "turning training triples round answers up to as many. Read scores without them, too. "
        f"Counting both directions, {_of(linked, test['triples'])} join entities that train joins.",
        _weight(count, test["triples"]),
    )


def _unseen(test: Mapping[str, int]) -> Verdict:
    count = test["unseen_entities"]
    if not count:
        return Verdict("Every entity of test occurs in train.", "good")
    return Verdict(
        f"{_of(count, test['triples'])} test triples have an entity that train lacks: what knows "
        f"entities from triples alone can only guess there, so that its MRR and Hits@k end at "
        f"about {1 - count / test['triples']:.3f}.",
        _weight(count, test["triples"]),
    )


def _related(related: Sequence[Mapping[str, Any]], test: Mapping[str, int]) -> Verdict:
    kinds = ("inverse", "symmetric", "duplicate")
    numbers = {kind: sum(row["kind"] == kind for row in related) for kind in kinds}
    if not related:
        return Verdict("No relation is nearly the inverse or the double of another.", "good")
    counted = (
        f"{numbers['inverse']} pairs of relations are (nearly) inverse, {numbers['duplicate']} "
        f"(nearly) the same, {numbers['symmetric']} relations (nearly) symmetric"
    )
    given = test["given_away"]
    if not given:
        return Verdict(f"{counted}, but no test triple follows from train by them.", "good")
    return Verdict(
        f"{counted}. {_of(given, test['triples'])} test triples follow from one train triple by "
        "them: a table of rules scores there.",
        _weight(given, test["triples"]),
    )


def _of(count: int, total: int) -> str:
    return f"{count:,} of {total:,} ({count / total:.1%})".replace("%", "\u00a0%")


def _weight(count: int, total: int) -> Any:
    return "bad" if count >= _NOTEWORTHY * total else "open"
