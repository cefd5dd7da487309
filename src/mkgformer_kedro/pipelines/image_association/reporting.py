"""What the images cover, and what they look like in the store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mkgformer_kedro.datasets.visual_store import INPUT_NAMES, VisualStore
from mkgformer_kedro.pipelines.image_association.decoding import BROKEN, Status

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLUMNS = 8
_OWNERS_WITH_IMAGES = 48
_QUARANTINED_SHOWN = 8
_NAME_LENGTH = 20
_INK, _BORROWED, _QUARANTINED = "black", "tab:blue", "tab:red"


def coverage(images: pd.DataFrame, store: VisualStore) -> dict[str, Any]:
    """Count what the images cover.

    Args:
        images: The manifest.
        store: The finished store.

    Returns:
        ``owners`` (all, with own images, borrowing, without), ``images`` (by status that occurs),
        ``images_per_owner`` (number of usable images: number of owners), ``stored`` (images
        per role) and ``quarantined`` by name.
    """
    own = images[images["borrowed_from"].isna()]
    usable = own[own["status"].isin([Status.OK, Status.UNUSED])]
    with_own = own.loc[own["slot"] >= 0, "owner"].nunique()
    with_any = int(store.has_images.sum())
    broken = own[own["status"].isin(BROKEN)]
    return {
        "owners": {
            "all": len(store),
            "with_images": int(with_own),
            "borrowing": with_any - int(with_own),
            "without_images": len(store) - with_any,
        },
        "images": {
            "listed": len(own),
            **{
                status.value: int(count)
                for status in Status
                if (count := (own["status"] == status).sum())
            },
        },
        "images_per_owner": {
            str(count): int(owners)
            for count, owners in usable.groupby("owner").size().value_counts().sort_index().items()
        },
        "stored": {role: layout.rows for role, layout in store.roles.items()},
        "quarantined": broken[["path", "status"]]
        .drop_duplicates()
        .sort_values("path")
        .to_dict("records"),
    }


def graph_coverage(
    images: pd.DataFrame, store: VisualStore, triples: pd.DataFrame, unknown_folders: list[str]
) -> dict[str, Any]:
    """Count what the images of a graph's entities cover.

    Args:
        images: The manifest.
        store: The finished store.
        triples: Triples of all splits, by entity index.
        unknown_folders: Image folders that stand for no entity.

    Returns:
        What :func:`coverage` does, ``known_entity_has_images`` (per split, the share of link
        prediction questions whose given entity has images: each triple asks for its tail and for
        its head) and ``unknown_folders``.
    """
    by_split = {}
    for split, rows in triples.groupby("split", sort=False):
        known = store.has_images[rows[["head", "tail"]].to_numpy()]
        by_split[str(split)] = round(float(known.mean()), 4)
    return {
        **coverage(images, store),
        "known_entity_has_images": by_split,
        "unknown_folders": {"count": len(unknown_folders), "names": unknown_folders},
    }


def posts_coverage(
    images: pd.DataFrame,
    store: VisualStore,
    posts: pd.DataFrame,
    found: pd.Series,
    crops: pd.DataFrame,
) -> dict[str, Any]:
    """Count what the images of posts cover.

    Args:
        images: The manifest.
        store: The finished store.
        posts: The posts, in the order of the store's owners.
        found: Whether the image that each post names is there.
        crops: The crops that were listed or detected.

    Returns:
        What :func:`coverage` does, ``posts`` (per split how many there are, how many name an
        image, lack the one they name, have any image, and have one of each role) and
        ``crops`` (per role how many are listed, and how many of these are not there).
    """
    filled = images[images["slot"] >= 0]
    by_role = {role: set(rows["owner"]) for role, rows in filled.groupby("role")}
    by_split = {}
    for split, rows in posts.groupby("split", sort=False):
        named = rows["image"].notna()
        by_split[str(split)] = {
            "all": len(rows),
            "naming_an_image": int(named.sum()),
            "image_not_found": int((named & ~found[rows.index]).sum()),
            "with_images": int(store.has_images[rows.index].sum()),
            **{
                f"with_{role}": int(rows["post"].isin(by_role.get(role, ())).sum())
                for role in store.roles
            },
        }
    listed = crops["role"].value_counts()
    there = images["role"].value_counts()
    return {
        **coverage(images, store),
        "posts": by_split,
        "crops": {
            role: {
                "listed": int(listed.get(role, 0)),
                "not_found": int(listed.get(role, 0) - there.get(role, 0)),
            }
            for role in store.roles
            if role != "full"
        },
    }


def contact_sheet(images: pd.DataFrame, store: VisualStore, names: pd.Series) -> Figure:
    """Draw one stored image of owners spread evenly over all that have any.

    Borrowed images are named in blue with their donor; files that could not be used follow in
    red, each with the reason.

    Args:
        images: The manifest.
        store: The finished store.
        names: What each owner is called, by its id, in the order of the store.
    """
    from matplotlib.figure import Figure

    owners = np.flatnonzero(store.has_images)
    if len(owners) > _OWNERS_WITH_IMAGES:
        owners = owners[np.linspace(0, len(owners) - 1, _OWNERS_WITH_IMAGES).astype(int)]
    broken = images[images["status"].isin(BROKEN)]
    broken = broken.drop_duplicates("path").sort_values("path").head(_QUARANTINED_SHOWN)
    rows = max(1, -(-len(owners) // _COLUMNS) + (not broken.empty))
    figure = Figure(figsize=(1.5 * _COLUMNS, 1.8 * rows))
    margins = {"left": 0.01, "right": 0.99, "bottom": 0.02 / rows, "top": 1 - 0.3 / rows}
    spaces = {"wspace": 0.05, "hspace": 0.3}
    axes = figure.subplots(rows, _COLUMNS, squeeze=False, gridspec_kw=margins | spaces)
    for panel in axes.flat:
        panel.axis("off")
    donors = images.dropna(subset="borrowed_from").groupby("owner")["borrowed_from"].first()
    for panel, owner in zip(axes.flat, owners, strict=False):
        name = names.index[owner]
        panel.imshow(_first_image(store, owner))
        if name in donors.index:
            _caption(panel, names.iloc[owner], f"from {names[donors[name]]}", _BORROWED)
        else:
            _caption(panel, names.iloc[owner], "", _INK)
    for panel, row in zip(axes[-1], broken.itertuples(), strict=False):
        panel.text(0.5, 0.5, row.status, ha="center", va="center", fontsize=7, color=_QUARANTINED)
        folder, _, name = row.path.partition("/")
        _caption(panel, folder, name, _QUARANTINED)
    if not len(owners) and broken.empty:
        axes[0, _COLUMNS // 2].text(0.5, 0.5, "no images", ha="center", va="center")
    return figure


def _first_image(store: VisualStore, owner: int) -> np.ndarray:
    inputs = store.read([owner])
    slot = int(inputs["image_mask"][0].argmax())
    images = [image for role in store.roles for image in inputs[INPUT_NAMES[role]][0]]
    return images[slot].transpose(1, 2, 0)


def _caption(panel: Axes, title: str, subtitle: str, color: str) -> None:
    lines = [
        line if len(line) <= _NAME_LENGTH else f"{line[: _NAME_LENGTH - 1]}…"
        for line in (title, subtitle)
    ]
    # Names are data: a dollar sign in one is no formula.
    panel.set_title("\n".join(lines), fontsize=7, color=color, parse_math=False)
