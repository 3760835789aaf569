"""The models that ``bench_train`` trains: one for each family, its task, its batch, and examples that fill it.

Two are pretrained samples; the others are small ones with random weights, of sizes that a board would train. Laws: the
same name gives the same model and the same examples.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from benchmarks.full_texts import write_full_texts
from benchmarks.random_bert import write_words

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from host.bundle_folder import Bundle

__all__ = ["CASES", "Case", "write_examples", "write_model"]

VOCABULARY: Final = 4000
# Few layers, as wide as BERT-base's: an export's time grows with the layers alone.
WIDTH, LAYERS, HEADS, INNER = 768, 2, 12, 3072
LABELS: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One family's model and how it is trained; ``tokens`` is None where the examples are no texts."""

    name: str
    task: str
    batch: int
    tokens: int | None = None
    sample: str | None = None  # a packaged model; None: one with random weights
    make: Callable[[], Any] | None = None
    has_labels: bool = False

    @property
    def shape(self) -> str:
        """Return the batch in words."""
        return f"{self.batch} x {self.tokens} tokens" if self.tokens else f"{self.batch} examples"


def _gpt2() -> Any:  # noqa: ANN401 - a transformers model, here and below
    from transformers import GPT2Config, GPT2LMHeadModel  # noqa: PLC0415 - takes seconds, here and below

    sizes = {"vocab_size": VOCABULARY, "n_embd": WIDTH, "n_layer": LAYERS, "n_head": HEADS, "n_positions": 128}
    return GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=None, eos_token_id=None, pad_token_id=0))


def _llama() -> Any:  # noqa: ANN401
    from transformers import LlamaConfig, LlamaForCausalLM  # noqa: PLC0415

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=4,
        intermediate_size=2048,
        max_position_embeddings=128,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config)


def _vit() -> Any:  # noqa: ANN401
    from transformers import ViTConfig, ViTModel  # noqa: PLC0415

    return ViTModel(ViTConfig(**_tower(), image_size=96, patch_size=16))


def _clip() -> Any:  # noqa: ANN401
    from transformers import CLIPConfig, CLIPModel  # noqa: PLC0415

    tower = {**_tower(), "projection_dim": 128}
    text = {
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 32,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    vision = {"image_size": 96, "patch_size": 16}
    config = CLIPConfig(text_config={**tower, **text}, vision_config={**tower, **vision}, projection_dim=128)
    return CLIPModel(config)


def _patchtst() -> Any:  # noqa: ANN401
    from transformers import PatchTSTConfig, PatchTSTForPrediction  # noqa: PLC0415

    config = PatchTSTConfig(
        num_input_channels=2,
        context_length=512,
        prediction_length=48,
        patch_length=16,
        patch_stride=16,
        d_model=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        ffn_dim=INNER,
    )
    return PatchTSTForPrediction(config)


def _tower() -> dict[str, Any]:
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    return dict(zip(names, (WIDTH, LAYERS, HEADS, INNER), strict=True))


CASES: Final = {
    case.name: case
    for case in (
        Case(name="bert", task="text-classification", batch=16, tokens=64, sample="minilm", has_labels=True),
        Case(name="gpt2", task="causal-lm", batch=8, tokens=32, make=_gpt2),
        Case(name="llama", task="causal-lm", batch=8, tokens=32, make=_llama),
        Case(name="vit", task="image-classification", batch=8, make=_vit, has_labels=True),
        Case(name="clip", task="image-text", batch=8, tokens=16, make=_clip),
        Case(name="patchtst", task="forecasting", batch=8, make=_patchtst),
        # By name only: their exports take minutes.
        Case(name="dinov2", task="image-classification", batch=8, sample="dinov2-small", has_labels=True),
        Case(name="fracast", task="quantile-forecasting", batch=8, sample="fracast"),
    )
}


def write_model(case: Case, folder: Path) -> str:
    """Return what ``edgefold export`` is to be told: a sample's name, or ``folder`` with a model written into it."""
    if case.make is None:
        return case.sample or ""
    import torch  # noqa: PLC0415 - takes seconds

    torch.manual_seed(0)
    case.make().save_pretrained(folder)
    if case.tokens:
        write_words(folder, VOCABULARY)
    return str(folder)


def write_examples(case: Case, bundle: Bundle, n_examples: int, folder: Path) -> Path:
    """Write examples that fill ``case``'s batches, as the bundle's task reads them."""
    manifest, rng = bundle.manifest, np.random.default_rng(0)
    if manifest.series is not None:
        facts, path = manifest.series, folder / f"{case.name}.jsonl"
        values = rng.standard_normal((n_examples, facts.context + facts.horizon, facts.channels)).cumsum(axis=1)
        path.write_text("\n".join(json.dumps({"series": one.round(4).tolist()}) for one in values))
        return path
    if manifest.images is None:
        path = folder / f"{case.name}.jsonl"
        return write_full_texts(path, bundle=bundle.folder, n_texts=n_examples, seq=case.tokens or 1)
    images, path = manifest.images, folder / f"{case.name}.npz"
    pixels = rng.integers(0, 256, (n_examples, images.height, images.width, images.channels), dtype=np.uint8)
    if case.tokens is None:
        np.savez(path, images=pixels, labels=rng.integers(0, LABELS, n_examples))
    else:
        words = rng.integers(10, VOCABULARY, (n_examples, case.tokens))
        np.savez(path, images=pixels, captions=np.array([" ".join(f"w{word}" for word in row) for row in words]))
    return path
