"""FLUX.1-dev: CLIP and T5, double and single blocks, distilled guidance."""

from pathlib import Path

from diffusers import FluxTransformer2DModel

from tests.checkpoints.directory import write_directory
from tests.checkpoints.schedulers import flux_scheduler
from tests.checkpoints.text_encoders import clip_text_model, t5_encoder
from tests.checkpoints.tokenizers import clip_tokenizer, t5_tokenizer
from tests.checkpoints.vaes import LATENT_CHANNELS, flux_vae

_CLIP_WIDTH = 16
_T5_WIDTH = 32


def build(directory: Path) -> None:
    """Writes the checkpoint."""
    clip, t5 = clip_tokenizer(), t5_tokenizer(max_tokens=512)
    write_directory(
        directory,
        "flux.1-dev",
        "FluxPipeline",
        {
            "scheduler": flux_scheduler(),
            "text_encoder": clip_text_model(clip, _CLIP_WIDTH),
            "text_encoder_2": t5_encoder(t5, _T5_WIDTH),
            "tokenizer": clip,
            "tokenizer_2": t5,
            "transformer": _transformer(),
            "vae": flux_vae(),
        },
        published_classes={"tokenizer_2": "T5TokenizerFast"},
    )


def _transformer() -> FluxTransformer2DModel:
    return FluxTransformer2DModel(
        in_channels=4 * LATENT_CHANNELS,
        num_layers=2,
        num_single_layers=2,
        num_attention_heads=4,
        attention_head_dim=16,
        axes_dims_rope=(4, 6, 6),
        joint_attention_dim=_T5_WIDTH,
        pooled_projection_dim=_CLIP_WIDTH,
        guidance_embeds=True,
    )
