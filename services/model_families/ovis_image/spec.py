"""What Ovis-Image accepts."""

from services.model_ports.picture_spec import PictureSpec
from triptych.domain.model import GenerationDefaults

PROMPT_TOKENS = 256
"""What Qwen3 reads of a prompt after its fixed instruction, the chat's closing tokens included;
shorter prompts are padded to it."""

SPECS = (
    PictureSpec(
        name="ovis-image",
        pipeline_classes=frozenset({"OvisImagePipeline"}),
        classes={
            "text_encoder": "Qwen3Model",
            "tokenizer": "Qwen2TokenizerFast",
            "transformer": "OvisImageTransformer2DModel",
            "scheduler": "FlowMatchEulerDiscreteScheduler",
            "vae": "AutoencoderKL",
        },
        prompt_tokens=PROMPT_TOKENS,
        layer_counts=("num_layers", "num_single_layers"),
        defaults=GenerationDefaults(
            width=1024, height=1024, steps=50, guidance_scale=5.0, negative_prompt=""
        ),
    ),
)
