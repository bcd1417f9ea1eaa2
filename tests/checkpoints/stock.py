"""The published pipelines, as a user of diffusers would load them."""

import json
from pathlib import Path

import torch
from diffusers import DiffusionPipeline

from services.numerics.still_image_processor import StillImageProcessor

_FLOAT32_VAES = ("AutoencoderKLWan",)


def stock_pipeline(directory: Path, dtype: torch.dtype = torch.float32) -> DiffusionPipeline:
    """Loads the pipeline that model_index.json names, from local files alone.

    Args:
        directory: a model directory.
        dtype: of all weights but those of Wan's VAE, which stay float32 as its card says.
    """
    index = json.loads((directory / "model_index.json").read_bytes())
    parts = {
        subfolder: StillImageProcessor.from_pretrained(directory / subfolder, local_files_only=True)
        for subfolder, entry in index.items()
        if entry == ["transformers", "Qwen2VLProcessor"]
    }
    # What a model leaves out its user has to say, too.
    parts |= {subfolder: None for subfolder, entry in index.items() if entry == [None, None]}
    vae_dtype = torch.float32 if index["vae"][1] in _FLOAT32_VAES else dtype
    pipeline = DiffusionPipeline.from_pretrained(
        directory,
        dtype={"default": dtype, "vae": vae_dtype},
        local_files_only=True,
        use_safetensors=True,
        **parts,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
