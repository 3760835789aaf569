"""Tiny models with random weights, one for each architecture: what tests and ``make bench-parity`` export in seconds.

Laws: two layers, so that every pass meets a first and a last one; grouped keys, windows and odd widths where the
architecture has them; the same seed gives the same folder.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from tokenizers import Tokenizer, models, pre_tokenizers

from models.causal_lm import CAUSAL_LM
from models.fracast import Fracast, FracastConfig
from models.image_classification import CLASSES
from models.text_classification import TEXT_CLASSIFICATION

__all__ = ["TINY", "TinyModel", "write_tiny"]

VOCABULARY = 97
WIDTH, LAYERS, HEADS, INNER, POSITIONS, SPREAD = 32, 2, 4, 48, 48, 0.1
_ENCODER: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": INNER,
    "max_position_embeddings": POSITIONS,
    "initializer_range": SPREAD,
}
_NO_MARKS: dict[str, Any] = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": 0}
_GROUPED: dict[str, Any] = {**_ENCODER, **_NO_MARKS, "num_key_value_heads": 2}
_VISION: dict[str, Any] = {
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "image_size": 8,
    "patch_size": 4,
    "initializer_range": SPREAD,
}
_GPT2: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "n_embd": WIDTH,
    "n_layer": LAYERS,
    "n_head": HEADS,
    "n_positions": POSITIONS,
}
_GPT_NEO: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "num_layers": LAYERS,
    "num_heads": HEADS,
    "intermediate_size": INNER,
    "attention_types": [[["global", "local"], 1]],
    "window_size": 8,
    "max_position_embeddings": POSITIONS,
}
_DISTILBERT: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "dim": WIDTH,
    "n_layers": LAYERS,
    "n_heads": HEADS,
    "hidden_dim": INNER,
}


_TOWER: dict[str, Any] = {
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": INNER,
    "projection_dim": 20,
}
_CLIP: dict[str, Any] = {
    "text_config": {
        **_TOWER,
        **_NO_MARKS,
        "eos_token_id": 2,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": POSITIONS,
    },
    "vision_config": {**_TOWER, "image_size": 8, "patch_size": 4},
    "projection_dim": 20,
}
_PATCHTST: dict[str, Any] = {
    "num_input_channels": 2,
    "context_length": 24,
    "prediction_length": 6,
    "patch_length": 4,
    "patch_stride": 4,
    "d_model": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "ffn_dim": INNER,
    "init_std": SPREAD,
}
_FRACAST: dict[str, Any] = {
    "num_input_channels": 2,
    "context_length": 48,
    "prediction_length": 6,
    "window": 64,
    "d_model": 12,
    "d_inner": 16,
    "n_stages": 2,
    "n_future_stages": 1,
    "n_future_seen": 20,
    "n_decoder_filters": 1,
    "n_periods": 2,
    "n_quantiles": 3,
}


@dataclass(frozen=True, slots=True)
class TinyModel:
    """One architecture: the task it is for, and how its pretrained model is made."""

    task: str
    make: Callable[[], Any]


def _encoder(config: Any) -> TinyModel:  # noqa: ANN401 - a transformers configuration
    return TinyModel("text-classification", lambda: TEXT_CLASSIFICATION.auto.from_config(config))


def _decoder(config: Any) -> TinyModel:  # noqa: ANN401 - likewise
    return TinyModel("causal-lm", lambda: CAUSAL_LM.auto.from_config(config))


def _vision(config: Any) -> TinyModel:  # noqa: ANN401 - likewise
    return TinyModel("image-classification", lambda: CLASSES[config.model_type](config))


TINY: dict[str, TinyModel] = {
    "bert": _encoder(hf.BertConfig(**_ENCODER)),
    "roberta": _encoder(hf.RobertaConfig(**_ENCODER)),
    "electra": _encoder(hf.ElectraConfig(**_ENCODER, embedding_size=16)),
    "distilbert": _encoder(hf.DistilBertConfig(**_DISTILBERT, max_position_embeddings=POSITIONS)),
    "gpt2": _decoder(hf.GPT2Config(**_GPT2, **_NO_MARKS, initializer_range=SPREAD)),
    "gpt_neo": _decoder(hf.GPTNeoConfig(**_GPT_NEO, **_NO_MARKS, initializer_range=SPREAD)),
    "opt": _decoder(hf.OPTConfig(**_ENCODER, **_NO_MARKS, ffn_dim=INNER, word_embed_proj_dim=WIDTH, init_std=SPREAD)),
    "llama": _decoder(hf.LlamaConfig(**_GROUPED)),
    "qwen2": _decoder(hf.Qwen2Config(**_GROUPED)),
    "mistral": _decoder(hf.MistralConfig(**_GROUPED, sliding_window=8)),
    "gemma": _decoder(hf.GemmaConfig(**_GROUPED, head_dim=8)),
    "vit": _vision(hf.ViTConfig(**_VISION, intermediate_size=INNER)),
    "deit": _vision(hf.DeiTConfig(**_VISION, intermediate_size=INNER)),
    "dinov2": _vision(hf.Dinov2Config(**_VISION, mlp_ratio=2)),
    "clip": TinyModel("image-text", lambda: hf.CLIPModel(hf.CLIPConfig(**_CLIP))),
    "patchtst": TinyModel("forecasting", lambda: hf.PatchTSTForPrediction(hf.PatchTSTConfig(**_PATCHTST))),
    "fracast": TinyModel("quantile-forecasting", lambda: Fracast(FracastConfig(**_FRACAST, initializer_range=SPREAD))),
}


def write_tiny(name: str, folder: Path, *, seed: int = 0) -> None:
    """Write the tiny model ``name`` as a Hugging Face folder, with a tokenizer of words ``w2`` to ``w96`` for texts."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        TINY[name].make().save_pretrained(folder)
    if TINY[name].task in {"image-classification", "forecasting", "quantile-forecasting"}:
        return
    words = {"[PAD]": 0, "[UNK]": 1, **{f"w{i}": i for i in range(2, VOCABULARY)}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))  # noqa: S106 - no password
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
