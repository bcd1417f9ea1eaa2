"""The encoders of the Qwen-Image line: a prompt, and pictures, through Qwen2.5-VL."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from diffusers import (
    QwenImageEditPipeline,
    QwenImageEditPlusPipeline,
    QwenImageLayeredPipeline,
    QwenImagePipeline,
)
from diffusers.image_processor import VaeImageProcessor
from PIL import Image
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

from services.model_families.qwen_image.spec import (
    CONDITION_FITS,
    LAYERS,
    MAX_EDIT_PROMPT_TOKENS,
    MAX_PROMPT_TOKENS,
    NO_PICTURE,
    ONE_PICTURE,
    picture_fit,
)
from services.model_files.directory import ModelDirectory
from services.model_files.modules import load_module, load_part
from services.model_ports.encoding import Encoding, prompt_encodings
from services.model_ports.stages import Images
from services.numerics.prompts import PromptEncoder, check_placeholders, counted_prompts, seeded
from services.numerics.still_image_processor import load_processor
from triptych.domain.errors import TriptychError
from triptych.domain.generation import GenerationParameters
from triptych.domain.image_fit import ImageFit


class QwenImageEncoder(PromptEncoder):
    """Runs the published pipeline's own `encode_prompt`.

    Args:
        pipeline: with its encoder components and no others.
        device: where the text encoder is.
    """

    def __init__(
        self, pipeline: QwenImagePipeline | QwenImageLayeredPipeline, device: torch.device
    ) -> None:
        super().__init__(pipeline.text_encoder, MAX_PROMPT_TOKENS)
        self._pipeline = pipeline
        self._device = device

    def count(self, prompt: str) -> int:
        return prompt_tokens(self._pipeline, prompt)

    def embed(self, prompt: str) -> torch.Tensor:
        embeds, mask = self._pipeline.encode_prompt(
            prompt=prompt, device=self._device, max_sequence_length=MAX_PROMPT_TOKENS
        )
        return unpadded(embeds, mask)


def prompt_tokens(pipeline: Any, prompt: str) -> int:  # noqa: ANN401 — published without types
    """The tokens of a prompt inside the template of one of the line's pipelines."""
    text = pipeline.prompt_template_encode.format(prompt)
    return len(pipeline.tokenizer(text).input_ids) - int(pipeline.prompt_template_encode_start_idx)


def unpadded(embeds: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """The embeddings of a single prompt, which needs no mask.

    Raises:
        TriptychError: it has one.
    """
    if mask is not None:
        raise TriptychError("the text encoder padded a single prompt; its mask would be lost")
    return embeds


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
            InvalidRequest: a prompt has more tokens than the model reads, or contains what stands
                for a picture.
        """
        prompts = counted_prompts(
            parameters, lambda prompt: prompt_tokens(self._pipeline, prompt), MAX_EDIT_PROMPT_TOKENS
        )
        processor = self._pipeline.processor
        for field, prompt in prompts.items():
            check_placeholders(field, prompt, (processor.image_token, processor.video_token))
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
            max_sequence_length=MAX_EDIT_PROMPT_TOKENS,
        )
        return {"prompt_embeds": unpadded(embeds, mask)}


class QwenImageLayeredEncoder(QwenImageEncoder):
    """Does not show the picture to the text encoder unless it is to be captioned."""

    def encodings(
        self, parameters: GenerationParameters, _: Images = (), /
    ) -> tuple[Encoding, ...]:
        """As QwenImageEncoder.encodings; of a caption that is too long the beginning is read.

        Raises:
            InvalidRequest: a prompt has more tokens than the model reads.
        """
        counted = replace(parameters, prompt="") if _captioned(parameters) else parameters
        prompts = counted_prompts(counted, self.count, MAX_PROMPT_TOKENS)
        prompts["prompt"] = parameters.prompt
        return prompt_encodings(prompts, self.conditioning)

    @torch.no_grad()
    def write_prompt(self, parameters: GenerationParameters, images: Images, /) -> str | None:
        """A caption of the picture, by the published instruction, if the request asks for one."""
        if not _captioned(parameters):
            return None
        (image,) = images
        width, height = picture_fit(parameters).size(*image.size)
        scaled = VaeImageProcessor().resize(image.convert("RGBA"), height, width)
        with seeded(parameters.seed, self._device):
            caption = self._pipeline.get_image_caption(scaled, device=self._device)
        assert isinstance(caption, str)
        return caption


def _captioned(parameters: GenerationParameters) -> bool:
    return parameters.options is not None and parameters.options.prompt_written_by is not None


def load(
    directory: ModelDirectory, dtype: torch.dtype, device: torch.device
) -> QwenImageEncoder | QwenImageEditEncoder:
    """Loads tokenizer and text encoder, and the processor of a model that looks at pictures.

    Raises:
        ConfigurationError: they cannot be loaded.
    """
    kind = directory.pipeline_class
    parts = {
        "tokenizer": load_part(Qwen2Tokenizer, directory, "tokenizer"),
        "text_encoder": load_module(
            Qwen2_5_VLForConditionalGeneration, directory, "text_encoder", dtype, device
        ),
        **dict.fromkeys(("scheduler", "vae", "transformer")),
    }
    if kind == NO_PICTURE:
        return QwenImageEncoder(QwenImagePipeline(**parts), device)
    parts["processor"] = load_processor(directory, "processor")
    if kind == LAYERS:
        return QwenImageLayeredEncoder(QwenImageLayeredPipeline(**parts), device)
    pipeline_class = QwenImageEditPipeline if kind == ONE_PICTURE else QwenImageEditPlusPipeline
    return QwenImageEditEncoder(pipeline_class(**parts), CONDITION_FITS[kind], device)
