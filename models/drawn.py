"""Random configurations of every architecture: what an exporter must take, or refuse with a reason that helps.

Two layers with odd sizes, and every switch that a configuration has which changes the graph: grouped keys, widths of
heads, tied and untied embeddings, activations, biases, positions, rotations and their scaling, windows, epsilons.

Laws: a function of (architecture, seed) alone; a configuration that transformers itself cannot make a model of is no
test and is drawn again by the caller. Weights are random, so a bundle of one is worth nothing but its parity.
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

import transformers as hf

from models.causal_lm import CAUSAL_LM
from models.image_classification import CLASSES
from models.text_classification import TEXT_CLASSIFICATION

__all__ = ["DRAWN", "Drawn", "draw"]

LAYERS, SPREAD = 2, 0.1
ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu", "quick_gelu", "tanh")
EPSILONS = (1e-12, 1e-8, 1e-6, 1e-5, 1e-3)
NO_MARKS: dict[str, Any] = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": 0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """One model to be made: which task it is for, its sizes, and how it is made."""

    task: str
    config: Any  # a transformers configuration
    make: Callable[[], Any]
    adapter: str
    n_labels: int | None
    vocabulary: int | None  # None: no text


def draw(name: str, seed: int) -> Drawn:
    """Return the configuration of architecture ``name`` that ``seed`` draws."""
    rng = Random(f"{name}/{seed}")  # noqa: S311 - no secret
    return DRAWN[name](rng)


def _sizes(rng: Random) -> dict[str, Any]:
    heads, width = rng.choice((1, 2, 3, 4)), rng.choice((4, 6, 8, 10))
    return {
        "num_attention_heads": heads,
        "hidden_size": heads * width,
        "intermediate_size": rng.choice((13, 24, 37, 64)),
        "num_hidden_layers": LAYERS,
    }


def _text(rng: Random) -> dict[str, Any]:
    return {"vocab_size": rng.choice((53, 64, 97, 131)), "max_position_embeddings": rng.choice((44, 48, 61))}


def _encoder(kind: Any, **switches: Any) -> Callable[[Random], Drawn]:  # noqa: ANN401 - a class of transformers
    def made(rng: Random) -> Drawn:
        chosen = {name: rng.choice(values) for name, values in switches.items()}
        config = kind(**_sizes(rng), **_text(rng), **chosen, initializer_range=SPREAD)
        return _encoded(rng, config)

    return made


def _encoded(rng: Random, config: Any) -> Drawn:  # noqa: ANN401
    return Drawn(
        task=rng.choice(("text-classification", "token-classification")),
        config=config,
        make=lambda: TEXT_CLASSIFICATION.auto.from_config(config),
        adapter=rng.choice(("lora", "lora", "head", "bitfit", "ia3", "soft-prompt", "prefix", "full")),
        n_labels=rng.choice((2, 3, 5, 7, 11)),
        vocabulary=config.vocab_size,
    )


def _distilbert(rng: Random) -> Drawn:
    sizes, text = _sizes(rng), _text(rng)
    return _encoded(
        rng,
        hf.DistilBertConfig(
            **text,
            dim=sizes["hidden_size"],
            n_heads=sizes["num_attention_heads"],
            hidden_dim=sizes["intermediate_size"],
            n_layers=LAYERS,
            activation=rng.choice(("gelu", "relu")),
            sinusoidal_pos_embds=rng.choice((True, False)),
            initializer_range=SPREAD,
        ),
    )


def _decoded(rng: Random, config: Any, *, has_prefix: bool = True) -> Drawn:  # noqa: ANN401
    return Drawn(
        task="causal-lm",
        config=config,
        make=lambda: CAUSAL_LM.auto.from_config(config),
        adapter=rng.choice(("lora", "lora", "lora", "soft-prompt", "full", "ia3", *(["prefix"] if has_prefix else []))),
        n_labels=None,
        vocabulary=config.vocab_size,
    )


def _gpt2(rng: Random) -> Drawn:
    sizes, text = _sizes(rng), _text(rng)
    return _decoded(
        rng,
        hf.GPT2Config(
            vocab_size=text["vocab_size"],
            n_positions=text["max_position_embeddings"],
            n_embd=sizes["hidden_size"],
            n_head=sizes["num_attention_heads"],
            n_layer=LAYERS,
            n_inner=rng.choice((None, 37)),
            activation_function=rng.choice(ACTIVATIONS),
            layer_norm_epsilon=rng.choice(EPSILONS),
            scale_attn_weights=rng.choice((True, False)),
            scale_attn_by_inverse_layer_idx=rng.choice((True, False)),
            reorder_and_upcast_attn=rng.choice((True, False)),
            tie_word_embeddings=rng.choice((True, False)),
            initializer_range=SPREAD,
            **NO_MARKS,
        ),
    )


def _gpt_neo(rng: Random) -> Drawn:
    sizes, text = _sizes(rng), _text(rng)
    return _decoded(
        rng,
        hf.GPTNeoConfig(
            **text,
            hidden_size=sizes["hidden_size"],
            num_heads=sizes["num_attention_heads"],
            num_layers=LAYERS,
            intermediate_size=rng.choice((None, 37)),
            attention_types=rng.choice(([[["global", "local"], 1]], [[["local"], 2]], [[["global"], 2]])),
            window_size=rng.choice((1, 3, 8, 256)),
            activation_function=rng.choice(ACTIVATIONS),
            layer_norm_epsilon=rng.choice(EPSILONS),
            initializer_range=SPREAD,
            **NO_MARKS,
        ),
        has_prefix=False,
    )


def _opt(rng: Random) -> Drawn:
    sizes, text = _sizes(rng), _text(rng)
    inner = sizes.pop("intermediate_size")
    return _decoded(
        rng,
        hf.OPTConfig(
            **sizes,
            **text,
            ffn_dim=inner,
            word_embed_proj_dim=rng.choice((sizes["hidden_size"], 14)),
            do_layer_norm_before=rng.choice((True, False)),
            enable_bias=rng.choice((True, False)),
            layer_norm_elementwise_affine=rng.choice((True, False)),
            activation_function=rng.choice(ACTIVATIONS),
            tie_word_embeddings=rng.choice((True, False)),
            init_std=SPREAD,
            **NO_MARKS,
        ),
    )


ROTATIONS: tuple[dict[str, Any] | None, ...] = (
    None,
    {"rope_type": "default", "rope_theta": 500.0},
    {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0},
    {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0},
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 10000.0},
    {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
        "rope_theta": 10000.0,
    },
)


def _rotated(kind: Any, **switches: Any) -> Callable[[Random], Drawn]:  # noqa: ANN401
    def made(rng: Random) -> Drawn:
        sizes = _sizes(rng)
        heads = sizes["num_attention_heads"]
        chosen = {name: rng.choice(values) for name, values in switches.items()}
        rotation = rng.choice(ROTATIONS)
        config = kind(
            **sizes,
            **_text(rng),
            **chosen,
            **({} if rotation is None else {"rope_parameters": dict(rotation)}),
            num_key_value_heads=rng.choice([n for n in range(1, heads + 1) if heads % n == 0]),
            tie_word_embeddings=rng.choice((True, False)),
            rms_norm_eps=rng.choice(EPSILONS),
            initializer_range=SPREAD,
            **NO_MARKS,
        )
        return _decoded(rng, config)

    return made


def _qwen2(rng: Random) -> Drawn:
    layers = rng.choice((["full_attention"] * 2, ["sliding_attention", "full_attention"], ["sliding_attention"] * 2))
    has_window = "sliding_attention" in layers
    return _rotated(
        hf.Qwen2Config,
        hidden_act=ACTIVATIONS,
        use_sliding_window=(has_window,),
        sliding_window=(rng.choice((3, 8)),) if has_window else (None,),
        layer_types=(layers,),
    )(rng)


def _vision(kind: Any, **switches: Any) -> Callable[[Random], Drawn]:  # noqa: ANN401
    def made(rng: Random) -> Drawn:
        sizes, patch = _sizes(rng), rng.choice((2, 4))
        if "mlp_ratio" in switches:
            sizes.pop("intermediate_size")
        chosen = {name: rng.choice(values) for name, values in switches.items()}
        config = kind(
            **sizes,
            **chosen,
            patch_size=patch,
            image_size=rng.choice((8, 12, (8, 12))),
            num_channels=rng.choice((1, 3, 4)),
            qkv_bias=rng.choice((True, False)),
            hidden_act=rng.choice(ACTIVATIONS),
            layer_norm_eps=rng.choice(EPSILONS),
            initializer_range=SPREAD,
        )
        return Drawn(
            task="image-classification",
            config=config,
            make=lambda: CLASSES[config.model_type](config),
            adapter=rng.choice(("lora", "lora", "head", "bitfit", "ia3", "prefix", "full")),
            n_labels=rng.choice((2, 3, 5, 7)),
            vocabulary=None,
        )

    return made


def _clip(rng: Random) -> Drawn:
    text, seen, words = _sizes(rng), _sizes(rng), _text(rng)
    marks = {**NO_MARKS, "eos_token_id": rng.choice((2, words["vocab_size"] - 1))}
    shared = rng.choice((12, 21))
    tower = {"hidden_act": rng.choice(ACTIVATIONS), "layer_norm_eps": rng.choice(EPSILONS), "projection_dim": shared}
    picture = {"patch_size": rng.choice((2, 4)), "image_size": rng.choice((8, 12)), "num_channels": rng.choice((1, 3))}
    config = hf.CLIPConfig(
        text_config={**text, **words, **marks, **tower},
        vision_config={**seen, **picture, **tower},
        projection_dim=shared,
    )
    return Drawn(
        task="image-text",
        config=config,
        make=lambda: hf.CLIPModel(config),
        adapter=rng.choice(("lora", "lora", "bitfit", "ia3", "full", "prefix")),
        n_labels=None,
        vocabulary=words["vocab_size"],
    )


DRAWN: dict[str, Callable[[Random], Drawn]] = {
    "bert": _encoder(hf.BertConfig, hidden_act=ACTIVATIONS, type_vocab_size=(1, 2, 3), layer_norm_eps=EPSILONS),
    "roberta": _encoder(
        hf.RobertaConfig, hidden_act=ACTIVATIONS, type_vocab_size=(1, 2), layer_norm_eps=EPSILONS, pad_token_id=(0, 1)
    ),
    "distilbert": _distilbert,
    "electra": _encoder(
        hf.ElectraConfig,
        hidden_act=ACTIVATIONS,
        embedding_size=(8, 17, 24),
        type_vocab_size=(1, 2),
        layer_norm_eps=EPSILONS,
        summary_activation=("gelu", "tanh"),
    ),
    "gpt2": _gpt2,
    "gpt_neo": _gpt_neo,
    "opt": _opt,
    "llama": _rotated(
        hf.LlamaConfig,
        hidden_act=ACTIVATIONS,
        head_dim=(4, 6, 16),
        attention_bias=(True, False),
        mlp_bias=(True, False),
    ),
    "qwen2": _qwen2,
    "mistral": _rotated(
        hf.MistralConfig, hidden_act=ACTIVATIONS, sliding_window=(None, 3, 8, 4096), head_dim=(4, 6, 16)
    ),
    "gemma": _rotated(hf.GemmaConfig, hidden_act=ACTIVATIONS, head_dim=(4, 6, 16), attention_bias=(True, False)),
    "vit": _vision(hf.ViTConfig, pooler_act=("tanh", "relu")),
    "deit": _vision(hf.DeiTConfig, pooler_act=("tanh",)),
    "dinov2": _vision(hf.Dinov2Config, mlp_ratio=(1, 2, 3), layerscale_value=(1.0, 0.3), use_swiglu_ffn=(True, False)),
    "clip": _clip,
}
