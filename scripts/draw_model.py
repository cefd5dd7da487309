"""Draw docs/images/model.svg: the two towers, and one pair of fused layers from close by.

Usage: python scripts/draw_model.py

The drawing brings its own background and follows the reader's light or dark scheme. The same script
gives the same bytes.
"""

from __future__ import annotations

import re
from pathlib import Path
from xml.sax.saxutils import escape

ROOT = Path(__file__).parents[1]
IMAGE = ROOT / "docs/images/model.svg"

WIDTH, HEIGHT = 1280, 900

# Colours by what they stand for, in the light and in the dark scheme.
COLOURS = {
    "ground": ("#ffffff", "#161b22"),
    "panel": ("#f6f8fa", "#1f2630"),
    "edge": ("#d0d7de", "#3d4756"),
    "ink": ("#1f2328", "#e8edf3"),
    "soft": ("#59636e", "#a7b1bd"),
    "text": ("#dbe9ff", "#1d3a66"),
    "text-edge": ("#2f6fd0", "#79b0ff"),
    "image": ("#ffe6cc", "#5a3512"),
    "image-edge": ("#c2630a", "#ffab5e"),
    "new": ("#d6f3df", "#1c4a2e"),
    "new-edge": ("#1a7f43", "#63d68d"),
    "sky": ("#cfe4f7", "#2b4a66"),
    "far": ("#9db3a4", "#5d7a68"),
    "near": ("#5f8a6c", "#3f6650"),
    "sun": ("#f5b83d", "#e0a93a"),
}

STYLE = """\
svg {{ {light} }}
@media (prefers-color-scheme: dark) {{ svg {{ {dark} }} }}
text {{ font: 18px Arial, "Liberation Sans", Helvetica, Roboto, sans-serif; fill: var(--ink);
  text-anchor: middle; }}
.left {{ text-anchor: start; }}
.right {{ text-anchor: end; }}
.soft {{ fill: var(--soft); }}
.title {{ font-size: 23px; font-weight: 600; text-anchor: start; }}
.strong {{ font-weight: 600; }}
.math {{ font-family: Cambria, "STIX Two Text", "Times New Roman", serif; font-size: 20px; }}
.sub {{ font-size: 72%; }}
.line {{ fill: none; stroke: var(--soft); stroke-width: 2; }}
.flow {{ fill: none; stroke-width: 4; }}"""


class Drawing:
    """Elements of the drawing, from back to front."""

    def __init__(self) -> None:
        self.elements: list[str] = []

    def add(self, element: str) -> None:
        """Put an element on top."""
        self.elements.append(element)

    def box(
        self, x: float, y: float, width: float, height: float, kind: str, radius: float = 8
    ) -> None:
        """A rounded rectangle in the colours of a kind."""
        edge = f"{kind}-edge" if f"{kind}-edge" in COLOURS else "edge"
        self.add(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{radius:g}" '
            f'fill="var(--{kind})" stroke="var(--{edge})" stroke-width="1.5"/>'
        )

    def say(self, x: float, y: float, text: str, kind: str = "") -> None:
        """A line of text at its baseline; `K_t` sets t as a subscript."""
        parts = re.split(r"_(\w)", escape(text))
        spans = [
            f'<tspan class="sub" dy="5">{part}</tspan><tspan dy="-5">&#8203;</tspan>'
            if place % 2
            else part
            for place, part in enumerate(parts)
        ]
        named = f' class="{kind}"' if kind else ""
        self.add(f'<text x="{x:g}" y="{y:g}"{named}>{"".join(spans)}</text>')

    def labelled(
        self, x: float, y: float, width: float, height: float, kind: str, *lines: str
    ) -> None:
        """A box with lines of text in its middle; the first is strong where there are more."""
        self.box(x, y, width, height, kind)
        first = y + height / 2 + 6 - 12 * (len(lines) - 1)
        for number, line in enumerate(lines):
            style = "strong" if number == 0 and len(lines) > 1 else ""
            self.say(x + width / 2, first + 24 * number, line, style)

    def arrow(self, path: str, kind: str = "soft") -> None:
        """A line with a head: thin and grey within a tower, thick between towers."""
        between = kind != "soft"
        style = f'class="flow" stroke="var(--{kind}-edge)"' if between else 'class="line"'
        self.add(f'<path d="{path}" {style} marker-end="url(#{kind})"/>')

    def chip(self, x: float, y: float, symbol: str, kind: str) -> None:
        """A small box around a symbol, by its middle."""
        self.box(x - 34, y - 20, 68, 40, kind, 6)
        self.say(x, y + 6, symbol, "math")

    def pill(self, x: float, y: float, name: str, kind: str) -> None:
        """The name of an exchange on its line, by its middle."""
        self.box(x - 30, y - 14, 60, 28, kind, 14)
        self.say(x, y + 6, name, "strong")

    def between(self, start: float, end: float, y: float, kind: str, name: str) -> None:
        """An exchange between towers."""
        self.arrow(f"M{start:g} {y:g}H{end:g}", kind)
        self.pill((start + end) / 2, y, name, kind)

    def svg(self) -> str:
        """The file."""
        light, dark = (
            " ".join(f"--{name}: {pair[scheme]};" for name, pair in COLOURS.items())
            for scheme in (0, 1)
        )
        markers = "".join(
            f'<marker id="{kind}" viewBox="0 0 10 10" refX="8" refY="5" markerWidth="{size}" '
            f'markerHeight="{size}" orient="auto"><path d="M0 0 10 5 0 10z" '
            f'fill="var(--{colour})"/></marker>'
            for kind, colour, size in (
                ("soft", "soft", 6), ("text", "text-edge", 4), ("image", "image-edge", 4),
            )
        )  # fmt: skip
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
            'aria-labelledby="title">',
            '<title id="title">MKGformer: a text and a vision tower whose last layers exchange '
            "information, with one head for each of three tasks</title>",
            f"<style>\n{STYLE.format(light=light, dark=dark)}\n</style>",
            f"<defs>{markers}</defs>",
        )
        return "\n".join([*head, *self.elements, "</svg>", ""])


def draw_image(draw: Drawing, x: float, y: float, size: float) -> None:
    """An image cut into patches."""
    step = size / 4

    def shape(kind: str, *points: tuple[float, float]) -> None:
        corners = " ".join(f"{x + size * a:g},{y + size * b:g}" for a, b in points)
        draw.add(f'<polygon points="{corners}" fill="var(--{kind})"/>')

    draw.add(f'<rect x="{x:g}" y="{y:g}" width="{size}" height="{size}" fill="var(--sky)"/>')
    draw.add(
        f'<circle cx="{x + 0.76 * size:g}" cy="{y + 0.25 * size:g}" r="{0.11 * size:g}" '
        'fill="var(--sun)"/>'
    )
    shape("far", (0.3, 1), (0.72, 0.38), (1, 0.75), (1, 1))
    shape("near", (0, 1), (0, 0.72), (0.36, 0.2), (0.86, 1))
    lines = "".join(
        f"M{x + step * n:g} {y:g}v{size}M{x:g} {y + step * n:g}h{size}" for n in range(5)
    )
    draw.add(f'<path d="{lines}" stroke="var(--ground)" stroke-width="2.5"/>')


def draw_towers(draw: Drawing) -> None:
    """The left panel: inputs, both towers, the fused pairs, and the heads."""
    draw.box(20, 20, 580, 860, "panel", 14)
    draw.say(44, 62, "Two towers, fused in their last layers", "title")
    text, image = 133, 487  # middles of the towers

    heads = (
        ("Link prediction", "the entity", "at [MASK]"),
        ("Relation extraction", "the relation of", "two mentions"),
        ("Entity recognition", "a tag for each", "word, by a CRF"),
    )
    for number, lines in enumerate(heads):
        x = text + 177 * number
        draw.labelled(x - 86, 88, 172, 98, "new", *lines)
        draw.arrow(f"M{text} 292V218H{x}V194")

    draw.box(32, 240, 556, 310, "ground", 12)
    draw.say(310, 272, "M-Encoder: the last M pairs of layers", "strong")
    for y in (296, 380, 464):
        draw.labelled(44, y, 178, 64, "text", "text layer")
        draw.labelled(398, y, 178, 64, "image", "visual layer")
        draw.between(226, 392, y + 48, "text", "PGI")
        draw.between(394, 228, y + 16, "image", "CAF")
    for x in (text, image):
        for y in (380, 464):
            draw.arrow(f"M{x} {y}v-14")
        draw.arrow(f"M{x} 600V534")
        draw.arrow(f"M{x} 754V722")

    for x, kind, name in ((44, "text", "text tower"), (398, "image", "vision tower")):
        for lift in (12, 6, 0):
            draw.box(x + lift, 600 + lift, 166, 104, kind)
        draw.say(x + 83, 644, name, "strong")
        draw.say(x + 83, 672, "lower layers")

    for x, width, word in ((44, 92, "mountain"), (141, 74, "part of"), (220, 80, "[MASK]")):
        draw.labelled(x, 770, width, 40, "text", word)
    draw_image(draw, 445, 760, 84)

    for x, kind, meaning in (
        (44, "text", "text"),
        (132, "image", "images"),
        (240, "new", "new weights"),
    ):
        draw.box(x, 848, 18, 18, kind, 4)
        draw.say(x + 26, 863, meaning, "left soft")


def draw_pair(draw: Drawing) -> None:
    """The right panel: what one pair of layers exchanges."""
    draw.box(620, 20, 640, 860, "panel", 14)
    draw.say(644, 62, "One fused pair from close by", "title")
    text, image, gap = 756, 1118, 948  # middles of the layers and of what is between them

    draw.say(644, 104, "CAF, correlation-aware fusion", "left strong")
    draw.say(1236, 104, "softmax( x_t x_v\u1d40 ) x_v W_3", "right math")
    draw.say(644, 132, "Each token takes in the patches that resemble it.", "left soft")

    for x, width, kind in ((644, 224, "text"), (1000, 236, "image")):
        draw.box(x, 200, width, 200, kind)
        draw.say(x + width / 2, 230, "feed-forward", "strong")
        draw.box(x, 470, width, 222, kind)
        draw.say(x + width / 2, 500, "self-attention", "strong")
    draw.arrow(f"M{text} 200V158")
    draw.arrow(f"M{image} 200V158")
    draw.arrow(f"M{image} 470V390")

    # What a feed-forward network is made of.
    draw.chip(text, 264, "W_2", "ground")
    draw.chip(text - 50, 362, "W_1", "ground")
    draw.chip(text + 50, 362, "W_3", "new")
    draw.arrow(f"M{text - 50} 342V326Q{text - 50} 316 {text - 38} 316H{text - 22}")
    draw.arrow(f"M{text + 50} 342V326Q{text + 50} 316 {text + 38} 316H{text + 22}")
    draw.arrow(f"M{text} 302V290")
    draw.add(f'<circle cx="{text}" cy="316" r="14" fill="var(--ground)" stroke="var(--soft)"/>')
    draw.say(text, 322, "+")
    draw.arrow(f"M{text - 50} 470V390")
    draw.chip(image, 264, "W_2", "ground")
    draw.chip(image, 362, "W_1", "ground")
    draw.arrow(f"M{image} 342V290")

    # Similarity of three tokens with four patches.
    draw.arrow(f"M{image} 180H{gap}V308", "image")
    draw.arrow(f"M868 500H{gap}V390", "text")
    cells = ((0.9, 0.3, 0.1, 0.2), (0.1, 0.2, 0.7, 0.3), (0.2, 0.8, 0.3, 0.6))
    for row, weights in enumerate(cells):
        for column, weight in enumerate(weights):
            x, y = gap - 44 + 22 * column, 316 + 22 * row
            draw.add(
                f'<rect x="{x}" y="{y}" width="21" height="21" fill="var(--image-edge)" '
                f'fill-opacity="{weight}" stroke="var(--edge)"/>'
            )
    draw.arrow("M900 362H848", "image")
    draw.pill(gap, 238, "CAF", "image")

    # Queries, keys and values, in rows that both layers share.
    for y, letter, name in ((546, "V", "values"), (598, "K", "keys"), (650, "Q", "queries")):
        draw.say(660, y + 6, name, "left soft")
        draw.chip(812, y, f"{letter}_t", "ground")
        draw.say(1160, y + 6, name, "left soft")
        draw.chip(1116, y, f"{letter}_v", "ground")
        if letter != "Q":
            draw.chip(1044, y, f"{letter}_t", "text")
            draw.arrow(f"M852 {y}H1006", "text")
    draw.pill(gap, 572, "PGI", "text")
    draw.arrow(f"M{text} 740V700")
    draw.arrow(f"M{image} 740V700")
    draw.say(text, 766, "tokens", "soft")
    draw.say(image, 766, "patches", "soft")

    draw.say(644, 822, "PGI, prefix-guided interaction", "left strong")
    draw.say(1236, 822, "softmax( Q_v [K_t ; K_v]\u1d40 / \u221ad ) [V_t ; V_v]", "right math")
    draw.say(
        644,
        850,
        "Patches attend to tokens as to each other; tokens see no patch here.",
        "left soft",
    )


def draw_model() -> str:
    """The whole drawing as SVG."""
    draw = Drawing()
    draw.add(f'<rect width="{WIDTH}" height="{HEIGHT}" rx="16" fill="var(--ground)"/>')
    draw_towers(draw)
    draw_pair(draw)
    return draw.svg()


def main() -> None:
    """Write the file."""
    IMAGE.parent.mkdir(parents=True, exist_ok=True)
    IMAGE.write_text(draw_model(), encoding="utf-8")


if __name__ == "__main__":
    main()
