"""The stock classes the demo model is made of, their sizes and their first weights."""

from typing import Any

import torch
from diffusers import (
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    QwenImageTransformer2DModel,
)
from torch import nn
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
)

LATENT_CHANNELS = 16
PATCH_SIZE = 2
VAE_SCALE = 8
"""Pixels of a picture per latent value, along each side."""

HEADS = 3
HEAD_SIZE = 32

TRANSFORMER: dict[str, Any] = {
    "patch_size": PATCH_SIZE,
    "in_channels": LATENT_CHANNELS * PATCH_SIZE**2,
    "out_channels": LATENT_CHANNELS,
    # Twelve blocks, so that a cache that always computes the first eight still skips four.
    "num_layers": 12,
    "attention_head_dim": HEAD_SIZE,
    "num_attention_heads": HEADS,
    "joint_attention_dim": 64,
    "guidance_embeds": False,
    "axes_dims_rope": (8, 12, 12),
}

VAE: dict[str, Any] = {
    "base_dim": 16,
    "z_dim": LATENT_CHANNELS,
    "dim_mult": [1, 2, 2, 2],
    "num_res_blocks": 1,
    "temperal_downsample": [False, True, True],
}

SCHEDULER: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "shift": 1.0,
    "use_dynamic_shifting": True,
    "base_shift": 0.5,
    "max_shift": 0.9,
    "base_image_seq_len": 256,
    "max_image_seq_len": 8192,
    "shift_terminal": 0.02,
    "time_shift_type": "exponential",
}

TEXT: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
    "vocab_size": 512,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]},
}

VISION: dict[str, Any] = {
    "depth": 1,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_heads": 2,
    "out_hidden_size": 64,
}
"""The text encoder's class insists on a vision tower; nothing ever calls this one."""


def new_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """Makes the flow-matching scheduler with the settings of Qwen-Image."""
    return FlowMatchEulerDiscreteScheduler(**SCHEDULER)


def new_vae(seed: int) -> AutoencoderKLQwenImage:
    """Makes an autoencoder whose first weights let a single frame learn.

    The stock initialisation counts the fan-in of the whole 3-D kernel, but a lone frame only
    meets the last temporal tap: the gain per convolution would be a third of what it should be.
    """
    torch.manual_seed(seed)
    vae = AutoencoderKLQwenImage(**VAE)
    with torch.no_grad():
        for name, module in vae.named_modules():
            if isinstance(module, nn.Conv2d | nn.Conv3d) and "time_conv" not in name:
                _init_convolution(name, module)
    return vae


def new_transformer(seed: int) -> QwenImageTransformer2DModel:
    """Makes the diffusion transformer, its modulations almost off and its output zero."""
    torch.manual_seed(seed)
    transformer = QwenImageTransformer2DModel(**TRANSFORMER)
    width = HEADS * HEAD_SIZE
    with torch.no_grad():
        for block in transformer.transformer_blocks:
            for modulation in (block.img_mod[1], block.txt_mod[1]):
                modulation.weight.mul_(0.02)
                modulation.bias.zero_()
                # Rows are shift, scale, gate for attention, then the same for the MLP.
                modulation.bias[2 * width : 3 * width] = 0.25
                modulation.bias[5 * width : 6 * width] = 0.25
        for layer in (transformer.norm_out.linear, transformer.proj_out):
            layer.weight.zero_()
            layer.bias.zero_()
    return transformer


def new_text_encoder(seed: int, tokenizer: Qwen2Tokenizer) -> Qwen2_5_VLForConditionalGeneration:
    """Makes the text encoder; the seed covers the unused vision tower as well."""
    ids = {name: tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in _TOKEN_ROLES}
    text = TEXT | {
        "bos_token_id": ids["endoftext"],
        "eos_token_id": ids["im_end"],
        "pad_token_id": ids["endoftext"],
    }
    config = Qwen2_5_VLConfig(
        text_config=text,
        vision_config=VISION,
        image_token_id=ids["image_pad"],
        video_token_id=ids["video_pad"],
        vision_start_token_id=ids["vision_start"],
        vision_end_token_id=ids["vision_end"],
        vision_token_id=ids["vision_pad"],
        tie_word_embeddings=True,
    )
    torch.manual_seed(seed)
    return Qwen2_5_VLForConditionalGeneration(config)


_TOKEN_ROLES = (
    "endoftext",
    "im_end",
    "vision_start",
    "vision_end",
    "vision_pad",
    "image_pad",
    "video_pad",
)


def _init_convolution(name: str, module: nn.Conv2d | nn.Conv3d) -> None:
    taps = module.kernel_size[-1] * module.kernel_size[-2]
    gain = 1.0
    if name.endswith("conv1"):
        gain = 1.4
    elif name.endswith(("conv2", "attentions.0.proj")):
        # Residual branches start small, so that the signal first takes the short way.
        gain = 0.1
    module.weight.zero_()
    frame = module.weight[:, :, -1] if isinstance(module, nn.Conv3d) else module.weight
    frame.normal_(0.0, gain / (taps * module.in_channels) ** 0.5)
    if module.bias is not None:
        module.bias.zero_()
