"""What pages are made of: sections, rows of tables, thumbnails, in one self-contained file.

Pages are Jinja templates below ``templates``; ``parts.html.j2`` holds the tables. Whatever comes
from a data set is escaped; a page asks nothing of the network.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mkgformer_kedro.evaluation.intervals import Difference, Interval
from mkgformer_kedro.evaluation.report.figures import format_number, heat_colours, inline_svg

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup
    from matplotlib.figure import Figure

THUMBNAIL = 96
IMAGES_SHOWN = 4


@dataclass(frozen=True)
class ScoreRow:
    """A row of a score table.

    Attributes:
        name: What was scored.
        values: Metric values by key; those missing are shown as a dash.
        intervals: 95 % intervals of some of them.
        deviations: Standard deviations of some of them over seeds.
        note: A remark beside the name.
        source: Where a published number stands.
        url: Link to the source; only http and https are linked.
        own: Whether the row is the expert that the page is about, which the table marks.
    """

    name: str
    values: Mapping[str, float]
    intervals: Mapping[str, Interval] | None = None
    deviations: Mapping[str, float] | None = None
    note: str = ""
    source: str = ""
    url: str = ""
    own: bool = False


@dataclass(frozen=True)
class Published:
    """A published result on the data set.

    Attributes:
        name: Method.
        metrics: Values by bare metric name (``hits_at_10``).
        source: Where the numbers stand.
        url: Link to it.
        note: What a reader should know before comparing.
    """

    name: str
    metrics: Mapping[str, float]
    source: str
    url: str = ""
    note: str = ""

    @property
    def row(self) -> ScoreRow:
        """The result as a row of a score table."""
        return ScoreRow(self.name, self.metrics, note=self.note, source=self.source, url=self.url)


@dataclass(frozen=True)
class DifferenceRow:
    """A row of a table of differences, each drawn with its interval around zero.

    Attributes:
        label: What is compared.
        value: Score of what it is compared with.
        difference: The difference.
    """

    label: str
    value: float
    difference: Difference


@dataclass(frozen=True)
class GroupRow:
    """A row of a table of groups, whose first score is drawn as a bar.

    Attributes:
        label: What the group has in common.
        count: Number of answers in it.
        value: Score of the first expert, between 0 and 1.
        interval: Its 95 % interval.
        others: Scores of the other experts; NaN where one has no such answers.
    """

    label: str
    count: int
    value: float
    interval: Interval
    others: Sequence[float]

    def is_best(self, value: float) -> bool:
        """Whether nobody else's score is above this one."""
        return bool(self.others) and value >= float(np.nanmax([self.value, *self.others]))


@dataclass(frozen=True)
class ViewRow:
    """A row of a table that compares experts on parts of the test set.

    Attributes:
        label: The part.
        count: Number of its cases.
        scores: Score of each expert with its 95 % interval.
        difference: The first minus the expert that the table is about; None: the table is not
            about one.
    """

    label: str
    count: int
    scores: Sequence[tuple[float, Interval]]
    difference: Difference | None

    def is_best(self, value: float) -> bool:
        """Whether nobody else's score is above this one."""
        return len(self.scores) > 1 and value >= max(score for score, _ in self.scores)


@dataclass(frozen=True)
class Look:
    """What looked at the images of an example, in one way.

    Attributes:
        way: What the numbers are, see :mod:`mkgformer_kedro.evaluation.explanations`.
        part: The tokens that looked; empty where it is not some of them.
        heats: For each image the number of each patch, ``(layers, rows, columns)``.
    """

    way: str
    part: str
    heats: Sequence[np.ndarray]


@dataclass(frozen=True)
class Section:
    """A section of a page.

    Attributes:
        title: Its heading.
        body: HTML below it.
    """

    title: str
    body: Markup

    @property
    def anchor(self) -> str:
        """What links to it name."""
        return re.sub(r"\W+", "-", self.title.casefold()).strip("-")

    @classmethod
    def of(
        cls,
        title: str,
        *,
        text: str = "",
        tables: Mapping[str, pd.DataFrame] | None = None,
        figures: Mapping[str, Figure] | None = None,
    ) -> Section:
        """A section of a paragraph, tables and figures.

        Args:
            title: Its heading.
            text: The paragraph.
            tables: Tables by caption; the index holds the headings of the rows.
            figures: Figures by caption, drawn in the palette of ``figures``.
        """
        drawings = {
            caption: inline_svg(figure, caption) for caption, figure in (figures or {}).items()
        }
        content = {"text": text, "tables": tables or {}, "figures": drawings}
        return cls.from_template(title, "plain.html.j2", content)

    @classmethod
    def from_template(cls, title: str, template: str, content: Mapping[str, Any]) -> Section:
        """A section whose body is a template of this package, filled.

        Args:
            title: Its heading.
            template: File name below ``templates``.
            content: The template's variables; a missing one is an error.
        """
        from markupsafe import Markup

        body = render_template(template, content)
        return cls(title, Markup(body))  # noqa: S704 (the template escaped what it was given)


def render_template(template: str, content: Mapping[str, Any]) -> str:
    """Fill a template of this package.

    Args:
        template: File name below ``templates``.
        content: The template's variables; a missing one is an error.
    """
    return _environment().get_template(template).render(content)


def format_signed(value: float, digits: int = 3) -> str:
    """A number with its sign, as differences are written."""
    return f"{value:+.{digits}f}".replace("-", "\u2212")


def thumbnails(images: Sequence[np.ndarray]) -> list[str]:
    """Thumbnails of the first few images, see :func:`thumbnail`."""
    return [thumbnail(pixels) for pixels in images[:IMAGES_SHOWN]]


def thumbnail(pixels: np.ndarray) -> str:
    """A small JPEG of an image as a data URI.

    Args:
        pixels: ``uint8`` array ``(3, height, width)``, as the visual store holds images.

    Returns:
        The URI, of an image with neither side over 96 pixels.
    """
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(np.moveaxis(pixels, 0, -1)))
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def heat_maps(looks: Sequence[Look]) -> list[dict[str, list[str]]]:
    """What looked at each of the images that are shown, as overlays of their thumbnails.

    Args:
        looks: The ways of one example.

    Returns:
        For each image, by what looked, data URIs of PNGs with one pixel a patch: the mean over
        layers, and where there are several, each layer from the lowest up.
    """
    if not looks:
        return []
    shown: list[dict[str, list[str]]] = [{} for _ in looks[0].heats[:IMAGES_SHOWN]]
    for look in looks:
        label = _LOOKS[look.way].format(look.part)
        layers = len(look.heats[0])
        steps = [[each.mean(axis=0) for each in look.heats]]
        if layers > 1:
            steps += [[each[layer] for each in look.heats] for layer in range(layers)]
        for step in steps:
            for of_image, overlay in zip(shown, heat_colours(step), strict=False):
                of_image.setdefault(label, []).append(_png(overlay))
    return shown


_LOOKS = {
    "correlation": "{}: correlation (CAF)",
    "attention": "attention to the text (PGI)",
    "gradient": "gradient of the answer",
}


def _png(pixels: np.ndarray) -> str:
    """A PNG of ``(height, width, 4)`` RGBA pixels as a data URI."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader(__package__),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": format_number,
        "signed": format_signed,
        "label": lambda key: str(key).replace("_", " "),
    }
    environment.tests["web_link"] = lambda url: url.startswith(("https://", "http://"))
    return environment
