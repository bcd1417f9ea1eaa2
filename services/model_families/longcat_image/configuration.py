"""What LongCat-Image and LongCat-Image-Edit have in common, without torch."""

from triptych.domain.model import GenerationDefaults, Stage

PROMPT_TOKENS = 512
"""What Qwen2.5-VL reads of a prompt, a token for each quoted character; shorter prompts are padded
to it."""

PATCH_SIZE = 2
"""Latents per token, on each side."""

CLASSES = {
    "text_encoder": "Qwen2_5_VLForConditionalGeneration",
    "text_processor": "Qwen2VLProcessor",
    "tokenizer": "Qwen2Tokenizer",
    "transformer": "LongCatImageTransformer2DModel",
    "scheduler": "FlowMatchEulerDiscreteScheduler",
    "vae": "AutoencoderKL",
}
"""By subfolder, the class that reads it."""

CONFIGS = {
    Stage.ENCODER: ("text_processor", "tokenizer", "transformer", "vae"),
    Stage.DENOISER: ("scheduler", "vae"),
    Stage.VAE: ("transformer",),
}
"""By stage, the subfolders of which it needs no weights."""

DEFAULTS = GenerationDefaults(
    width=1024, height=1024, steps=50, guidance_scale=4.5, negative_prompt=""
)
