"""BAGEL-7B-MoT: Qwen2 with two experts per layer, SigLIP, and FLUX.1's autoencoder.

All files are in one folder, of which the published code knows the names.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers.models.embeddings import get_2d_sincos_pos_embed
from safetensors.torch import save_file
from torch import nn
from transformers import (
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3ForCausalLM,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from tests.checkpoints.bagel_autoencoder import Autoencoder
from tests.checkpoints.directory import draw_weights
from tests.checkpoints.text_encoders import QWEN_WIDTH
from tests.checkpoints.tokenizers import QWEN_VL_CHAT, qwen_tokenizer
from tests.checkpoints.vaes import LATENT_CHANNELS

_NAME = "bagel-7b-mot"
_LATENT_SIDE = 64
_VISION_SIDE = 70
_VISION_WIDTH = 16
_FREQUENCIES = 256
_PATCH_VALUES = 4 * LATENT_CHANNELS
_WIDTHS = (32, 32, 32, 32)

Weights = dict[str, torch.Tensor]


def build(directory: Path) -> None:
    """Writes the checkpoint."""
    directory.mkdir(parents=True)
    tokenizer = qwen_tokenizer([], chat_template=QWEN_VL_CHAT)
    tokenizer.save_pretrained(directory)
    language, vision = _language_config(tokenizer), _vision_config()
    _write(directory / "llm_config.json", _published_language_config(language))
    _write(
        directory / "vit_config.json",
        # The last layer is counted, but was never part of the weights.
        {**_sizes(vision), "num_hidden_layers": vision.num_hidden_layers + 1},
    )
    _write(directory / "config.json", _config())
    weights = _language_model(language) | _vision_model(vision) | _connections(language.hidden_size)
    rounded = {name: weight.bfloat16().contiguous() for name, weight in weights.items()}
    save_file(rounded, directory / "ema.safetensors", metadata={"format": "pt"})
    vae = autoencoder()
    draw_weights(vae, f"{_NAME}/vae")
    save_file(vae.state_dict(), directory / "ae.safetensors", metadata={"format": "pt"})


def autoencoder() -> Autoencoder:
    """The autoencoder of the checkpoint, without its weights."""
    return Autoencoder(_WIDTHS, blocks=1, latent_channels=LATENT_CHANNELS)


def _config() -> Mapping[str, object]:
    return {
        "architectures": ["BagelForConditionalGeneration"],
        "connector_act": "gelu_pytorch_tanh",
        "interpolate_pos": False,
        "latent_patch_size": 2,
        "max_latent_size": _LATENT_SIDE,
        "model_type": "bagel",
        "timestep_shift": 1.0,
        "vae_config": {"downsample": 8, "z_channels": LATENT_CHANNELS},
        "visual_gen": True,
        "visual_und": True,
        "vit_max_num_patch_per_side": _VISION_SIDE,
    }


def _language_config(tokenizer: Qwen2Tokenizer) -> Qwen3Config:
    # An expert is Qwen2 with normalised heads, which is Qwen3 with biases.
    return Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=QWEN_WIDTH,
        intermediate_size=2 * QWEN_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=QWEN_WIDTH // 4,
        attention_bias=True,
        rms_norm_eps=1e-6,
        max_position_embeddings=32768,
        tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": 1_000_000.0},
    )


def _published_language_config(config: Qwen3Config) -> Mapping[str, object]:
    names = (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "rms_norm_eps",
        "max_position_embeddings",
        "tie_word_embeddings",
    )
    return {
        **{name: getattr(config, name) for name in names},
        "architectures": ["Qwen2ForCausalLM"],
        "hidden_act": "silu",
        "model_type": "qwen2",
        "rope_theta": config.rope_parameters["rope_theta"],
    }


def _language_model(config: Qwen3Config) -> Weights:
    weights: Weights = {}
    for expert, suffix in (("understanding", ""), ("generation", "_moe_gen")):
        model = Qwen3ForCausalLM(config)
        draw_weights(model, f"{_NAME}/{expert}")
        for name, weight in model.state_dict().items():
            shared = "embed_tokens" in name or "lm_head" in name
            if name.endswith("o_proj.bias") or (shared and suffix):
                continue
            weights[f"language_model.{name if shared else _of_expert(name, suffix)}"] = weight
    return weights


def _of_expert(name: str, suffix: str) -> str:
    """Names the other expert's weights after its module: `mlp_moe_gen.up_proj.weight`."""
    owner, kind = name.rsplit(".", 1)
    if ".mlp." in owner:
        return name.replace(".mlp.", f".mlp{suffix}.")
    return f"{owner}{suffix}.{kind}"


def _vision_config() -> SiglipVisionConfig:
    return SiglipVisionConfig(
        hidden_size=_VISION_WIDTH,
        intermediate_size=2 * _VISION_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=980,
        patch_size=14,
        vision_use_head=False,
    )


def _sizes(config: SiglipVisionConfig) -> Mapping[str, object]:
    names = (
        "hidden_size",
        "image_size",
        "intermediate_size",
        "model_type",
        "num_attention_heads",
        "patch_size",
    )
    return {name: getattr(config, name) for name in names}


def _vision_model(config: SiglipVisionConfig) -> Weights:
    model = SiglipVisionModel(config)
    draw_weights(model, f"{_NAME}/vision")
    weights = {f"vit_model.vision_model.{name}": each for name, each in model.state_dict().items()}
    patches = "vit_model.vision_model.embeddings.patch_embedding.weight"
    # Published for a patch whose channels are innermost.
    weights[patches] = weights[patches].permute(0, 2, 3, 1).flatten(1)
    return weights


def _connections(width: int) -> Weights:
    module = nn.ModuleDict(
        {
            "connector": nn.ModuleDict(
                {"fc1": nn.Linear(_VISION_WIDTH, width), "fc2": nn.Linear(width, width)}
            ),
            "vae2llm": nn.Linear(_PATCH_VALUES, width),
            "llm2vae": nn.Linear(width, _PATCH_VALUES),
            "time_embedder": nn.ModuleDict(
                {
                    "mlp": nn.Sequential(
                        nn.Linear(_FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width)
                    )
                }
            ),
        }
    )
    draw_weights(module, f"{_NAME}/connections")
    places = {
        f"{owner}.pos_embed": get_2d_sincos_pos_embed(width, side, output_type="pt").float()
        for owner, side in (("latent_pos_embed", _LATENT_SIDE), ("vit_pos_embed", _VISION_SIDE))
    }
    return module.state_dict() | places


def _write(file: Path, values: Mapping[str, object]) -> None:
    text = json.dumps(values, indent=2, sort_keys=True)
    file.write_text(f"{text}\n", encoding="utf-8")
