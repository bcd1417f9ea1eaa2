"""Z-Image-Turbo: Qwen3, refiners for noise and caption, and single-stream blocks."""

from pathlib import Path

from diffusers import FlowMatchEulerDiscreteScheduler, ZImageTransformer2DModel

from tests.checkpoints.directory import write_directory
from tests.checkpoints.text_encoders import QWEN_WIDTH, qwen3_model
from tests.checkpoints.tokenizers import QWEN3_CHAT, qwen_tokenizer
from tests.checkpoints.vaes import LATENT_CHANNELS, flux_vae


def build(directory: Path) -> None:
    """Writes the checkpoint."""
    tokenizer = qwen_tokenizer([], chat_template=QWEN3_CHAT, thinking=True)
    write_directory(
        directory,
        "z-image-turbo",
        "ZImagePipeline",
        {
            "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0),
            "text_encoder": qwen3_model(tokenizer),
            "tokenizer": tokenizer,
            "transformer": _transformer(),
            "vae": flux_vae(),
        },
        # Its blocks normalise what attention gives. Sharp as well, and guided, six steps would
        # make any change to the noise a hundred times as large; those of the other models, twice.
        unsharpened={"transformer"},
    )


def _transformer() -> ZImageTransformer2DModel:
    return ZImageTransformer2DModel(
        in_channels=LATENT_CHANNELS,
        dim=32,
        n_layers=2,
        n_refiner_layers=2,
        n_heads=4,
        n_kv_heads=4,
        cap_feat_dim=QWEN_WIDTH,
        axes_dims=[4, 2, 2],
        axes_lens=[1536, 512, 512],
    )
