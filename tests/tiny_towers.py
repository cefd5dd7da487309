"""Tiny towers of every family, randomly initialised, as folders that a hub could hold.

    python tests/tiny_towers.py FOLDER

makes FOLDER/text/<model_type> (weights with a head of masked language modelling, tokenizer) and
FOLDER/vision/<model_type> (weights, image processor), which know the words of the samples. Name two
of them as `model.text_tower` and `model.vision_tower`, and any pipeline runs.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

TEXT = {
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 48,
}
VISION = {
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 20,
}
TEXT_TYPES = ("bert", "roberta", "xlm-roberta", "mpnet", "modernbert")
VISION_TYPES = (
    "clip_vision_model",
    "siglip_vision_model",
    "siglip2_vision_model",
    "vit",
    "dinov2",
)
MEAN, STD = (0.4, 0.5, 0.6), (0.3, 0.2, 0.25)
WORDS = (
    *("The", "red", "bird", "is", "a", "kind", "of", "animal", "Berlin", "lies", "in", "Germany"),
    *(".", ",", "said", "Ann's", "friend", "Bob"),
)

_ASCII = [chr(code) for code in range(33, 127)]
_ROBERTA_TOKENS = ("<s>", "<pad>", "</s>", "<unk>")


def samples_words() -> list[str]:
    """Words of the texts that the project brings along."""
    raw = Path(__file__).parents[1] / "data/01_raw"
    texts = [path.read_text() for path in raw.rglob("*.t[xs][tv]")]
    return sorted(set(re.findall(r"[\w']+", " ".join(texts))))


def text_config(model_type: str, vocab_size: int = 0, **fields: Any) -> dict[str, Any]:
    """Fields of a tiny text tower's configuration, `model_type` included.

    Args:
        model_type: Family.
        vocab_size: Number of tokens.
        **fields: Fields that differ.
    """
    config = {"model_type": model_type, "vocab_size": vocab_size, **TEXT}
    config["max_position_embeddings"] = 130
    if model_type == "modernbert":
        special = {"bos": 0, "pad": 1, "eos": 2, "cls": 0, "sep": 2}
        config |= {f"{name}_token_id": number for name, number in special.items()}
        config["local_attention"] = 8  # narrower than the texts of the tests
    elif model_type != "bert":
        config |= {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
    if model_type in ("roberta", "xlm-roberta"):
        config["type_vocab_size"] = 1
    return {**config, **fields}


def vision_config(
    model_type: str, patch_size: int = 8, image_size: int = 16, **fields: Any
) -> dict[str, Any]:
    """Fields of a tiny vision tower's configuration, `model_type` included."""
    config = {"model_type": model_type, "patch_size": patch_size, "image_size": image_size}
    config |= VISION
    if model_type == "siglip2_vision_model":
        del config["image_size"]
        config["num_patches"] = (image_size // patch_size) ** 2
    if model_type == "dinov2":
        del config["intermediate_size"]
        config |= {"mlp_ratio": 2, "layerscale_value": 0.5}
    return {**config, **fields}


def make_tokenizer(model_type: str, words: Iterable[str] = WORDS) -> Any:
    """The family's tokenizer, which knows these words and the letters of all others."""
    from transformers import BertTokenizer, MPNetTokenizer, XLMRobertaTokenizer

    words = sorted(set(words))
    if model_type in ("roberta", "modernbert"):
        return _byte_level_tokenizer(model_type, words)
    if model_type == "xlm-roberta":
        pieces = [(token, 0.0) for token in _ROBERTA_TOKENS]
        pieces += [("▁", -8.0), *((f"▁{word}", -9.0) for word in words if len(word) > 1)]
        pieces += [(letter, -12.0) for letter in _ASCII] + [("<mask>", 0.0)]
        return XLMRobertaTokenizer(vocab=pieces, unk_id=3)
    lower = [word for word in sorted({word.lower() for word in words}) if len(word) > 1]
    letters = [letter for letter in _ASCII if letter == letter.lower()]
    pieces = [*letters, *(f"##{letter}" for letter in letters), *lower]
    if model_type == "mpnet":
        pieces = [*_ROBERTA_TOKENS[:3], "[UNK]", *pieces, "<mask>"]
        return MPNetTokenizer(vocab={piece: i for i, piece in enumerate(pieces)})
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *pieces]
    return BertTokenizer(vocab={piece: i for i, piece in enumerate(pieces)})


def _byte_level_tokenizer(model_type: str, words: list[str]) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast, RobertaTokenizer

    named = model_type == "modernbert"
    special = ["[CLS]", "[PAD]", "[SEP]", "[UNK]"] if named else [*_ROBERTA_TOKENS]
    mask = "[MASK]" if named else "<mask>"
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=1000,
        special_tokens=[*special, mask],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([f" {word}" for word in words], trainer)
    if not named:
        learned = json.loads(tokenizer.to_str())["model"]
        merges = [tuple(merge) for merge in learned["merges"]]
        return RobertaTokenizer(vocab=learned["vocab"], merges=merges)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 0), ("[SEP]", 2)]
    )
    names = dict(zip(("cls", "pad", "sep", "unk", "mask"), [*special, mask], strict=True))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **{f"{name}_token": token for name, token in names.items()}
    )


def make_text_tower(folder: Path, model_type: str, words: Iterable[str] = WORDS) -> Path:
    """Write a text tower with its head of masked language modelling, and its tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModelForMaskedLM

    torch.manual_seed(0)
    tokenizer = make_tokenizer(model_type, words)
    config = AutoConfig.for_model(**text_config(model_type, len(tokenizer)))
    AutoModelForMaskedLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_vision_tower(
    folder: Path, model_type: str, patch_size: int = 8, image_size: int = 16
) -> Path:
    """Write a vision tower, and the settings of its image processor."""
    import torch
    from transformers import AutoConfig, AutoModel

    torch.manual_seed(0)
    config = AutoConfig.for_model(**vision_config(model_type, patch_size, image_size))
    AutoModel.from_config(config).save_pretrained(folder)
    settings = {
        "image_processor_type": "SiglipImageProcessor",
        "do_normalize": True,
        "image_mean": MEAN,
        "image_std": STD,
        "size": {"height": image_size, "width": image_size},
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    return folder


def main(folder: Path) -> None:
    """Make a tower of every family."""
    words = samples_words()
    for model_type in TEXT_TYPES:
        make_text_tower(folder / "text" / model_type, model_type, words)
    for model_type in VISION_TYPES:
        make_vision_tower(folder / "vision" / model_type, model_type, patch_size=16, image_size=64)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
