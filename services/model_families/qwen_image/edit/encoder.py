"""Qwen-Image-Edit's encoder: a prompt and its pictures through Qwen2.5-VL."""

from collections.abc import Mapping

import torch
from diffusers import QwenImageEditPipeline, QwenImageEditPlusPipeline
from diffusers.image_processor import VaeImageProcessor
from PIL import Image
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

from services.model_families.qwen_image.edit.spec import (
    CONDITION_FITS,
    MAX_PROMPT_TOKENS,
    ONE_PICTURE,
)
from services.model_families.qwen_image.prompt_encoding import prompt_tokens, unpadded
from services.model_files.directory import ModelDirectory
from services.model_files.modules import load_module, load_part
from services.model_ports.encoding import Encoding, prompt_encodings
from services.model_ports.stages import Images
from services.numerics.prompts import counted_prompts
from services.numerics.still_image_processor import load_processor
from triptych.domain.generation import GenerationParameters
from triptych.domain.image_fit import ImageFit


class QwenImageEditEncoder:
    """Runs the published pipeline's own `encode_prompt`; its other components are absent.

    Args:
        pipeline: with its encoder components.
        fit: the size that pictures are scaled to.
        device: where the text encoder is.
    """

    def __init__(
        self,
        pipeline: QwenImageEditPipeline | QwenImageEditPlusPipeline,
        fit: ImageFit,
        device: torch.device,
    ) -> None:
        self._pipeline = pipeline
        self._fit = fit
        self._device = device
        self._images = VaeImageProcessor()

    @property
    def components(self) -> Mapping[str, torch.nn.Module]:
        """The text encoder."""
        return {"text_encoder": self._pipeline.text_encoder}

    def encodings(
        self, parameters: GenerationParameters, images: Images = (), /
    ) -> tuple[Encoding, ...]:
        """To `prompt_embeds` [1, tokens, width]; when guided, `negative_prompt_embeds` too.

        The pictures' tokens are among them, in both.

        Raises:
            InvalidRequest: a prompt has more tokens than the model reads.
        """
        prompts = counted_prompts(
            parameters, lambda prompt: prompt_tokens(self._pipeline, prompt), MAX_PROMPT_TOKENS
        )
        return prompt_encodings(
            prompts, lambda prompt: self._embed(prompt, images), pictures=range(len(images))
        )

    def _scaled(self, image: Image.Image) -> Image.Image:
        width, height = self._fit.size(*image.size)
        scaled = self._images.resize(image.convert("RGB"), height, width)
        assert isinstance(scaled, Image.Image)
        return scaled

    def _embed(self, prompt: str, images: Images) -> dict[str, torch.Tensor]:
        embeds, mask = self._pipeline.encode_prompt(
            prompt=prompt,
            image=[self._scaled(image) for image in images],
            device=self._device,
            max_sequence_length=MAX_PROMPT_TOKENS,
        )
        return {"prompt_embeds": unpadded(embeds, mask)}


def load(
    directory: ModelDirectory, dtype: torch.dtype, device: torch.device
) -> QwenImageEditEncoder:
    """Loads tokenizer, processor and text encoder.

    Raises:
        ConfigurationError: they cannot be loaded.
    """
    kind = directory.pipeline_class
    pipeline_class = QwenImageEditPipeline if kind == ONE_PICTURE else QwenImageEditPlusPipeline
    pipeline = pipeline_class(
        tokenizer=load_part(Qwen2Tokenizer, directory, "tokenizer"),
        processor=load_processor(directory, "processor"),
        text_encoder=load_module(
            Qwen2_5_VLForConditionalGeneration, directory, "text_encoder", dtype, device
        ),
        scheduler=None,
        vae=None,
        transformer=None,
    )
    return QwenImageEditEncoder(pipeline, CONDITION_FITS[kind], device)
