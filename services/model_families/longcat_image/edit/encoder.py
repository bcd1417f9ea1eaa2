"""LongCat-Image-Edit's encoder: a prompt and its picture through Qwen2.5-VL."""

from collections.abc import Mapping

import torch
from diffusers import LongCatImageEditPipeline
from PIL import Image
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

from services.model_families.longcat_image.prompts import check_placeholders, checked_prompts
from services.model_files.directory import ModelDirectory
from services.model_files.modules import load_module, load_part
from services.model_ports.encoding import Encoding, prompt_encodings
from services.model_ports.stages import Images
from services.numerics.still_image_processor import load_processor
from triptych.domain.generation import GenerationParameters


class LongCatImageEditEncoder:
    """Runs the published pipeline's own `encode_prompt`.

    Args:
        pipeline: with its encoder components and no others.
    """

    def __init__(self, pipeline: LongCatImageEditPipeline) -> None:
        self._pipeline = pipeline

    @property
    def components(self) -> Mapping[str, torch.nn.Module]:
        """The text encoder."""
        return {"text_encoder": self._pipeline.text_encoder}

    def encodings(
        self, parameters: GenerationParameters, images: Images = (), /
    ) -> tuple[Encoding, ...]:
        """To `prompt_embeds` [1, tokens, width]; when guided, `negative_prompt_embeds` too.

        The picture's tokens are before the prompt's, in both.

        Raises:
            InvalidRequest: a prompt has more tokens than the model reads, would be garbled, or
                contains what stands for a picture.
        """
        prompts = checked_prompts(parameters, self._pipeline.tokenizer)
        for field, prompt in prompts.items():
            check_placeholders(field, prompt, (self._pipeline.image_token,))
        (image,) = images
        size = (parameters.width, parameters.height)
        return prompt_encodings(
            prompts, lambda prompt: self._embed(prompt, image, *size), *size, pictures=(0,)
        )

    def _scaled(self, image: Image.Image, width: int, height: int) -> Image.Image:
        resize = self._pipeline.image_processor.resize
        drawn_size = resize(image.convert("RGB"), height, width)
        half = resize(drawn_size, height // 2, width // 2)
        assert isinstance(half, Image.Image)
        return half

    def _embed(
        self, prompt: str, image: Image.Image, width: int, height: int
    ) -> dict[str, torch.Tensor]:
        embeds, _ = self._pipeline.encode_prompt(prompt, self._scaled(image, width, height))
        return {"prompt_embeds": embeds}


def load(
    directory: ModelDirectory, dtype: torch.dtype, device: torch.device
) -> LongCatImageEditEncoder:
    """Loads tokenizer, processor and text encoder.

    Raises:
        ConfigurationError: they cannot be loaded.
    """
    pipeline = LongCatImageEditPipeline(
        tokenizer=load_part(Qwen2Tokenizer, directory, "tokenizer"),
        text_processor=load_processor(directory, "text_processor"),
        text_encoder=load_module(
            Qwen2_5_VLForConditionalGeneration, directory, "text_encoder", dtype, device
        ),
        scheduler=None,
        vae=None,
        transformer=None,
    )
    return LongCatImageEditEncoder(pipeline)
