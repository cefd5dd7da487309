"""Draw what the model of the glyphs looks at: docs/images/explained.png, after `make demo`.

python scripts/draw_explanation.py [character]

One character of the test split, asked for each of its corners.
"""

import argparse
from pathlib import Path

from build_unihan_glyphs import CORNERS

from mkgformer_kedro.evaluation.report.figures import heat_figure
from mkgformer_kedro.inference import Predictor

ROOT = Path(__file__).parents[1]


def main() -> None:
    """Ask, and draw the mean correlation of the mask with each patch over the fused layers."""
    parser = argparse.ArgumentParser(description="Draw what the model of the glyphs looks at.")
    parser.add_argument("character", nargs="?", default="U+6DD8", help="id of an entity")
    character = parser.parse_args().character
    model = Predictor.from_folder(ROOT / "data/06_models/unihan_glyphs/link_prediction/finetuning")
    image = ROOT / f"data/01_raw/unihan_glyphs/images/{character}/sans.png"
    heats = {}
    for corner in CORNERS:
        found = model.explain(character, corner, images=image)
        answer = found.answer["name"].iloc[0]
        heats[f"{corner.replace('_', ' ')}: {answer}"] = found.heat("mask")
    figure = heat_figure([each.pixels for each in found.images], heats)
    figure.savefig(ROOT / "docs/images/explained.png", dpi=100)


if __name__ == "__main__":
    main()
