"""Qwen-Image-Layered's encoder: Qwen-Image's, which can also caption the picture."""

import torch
from diffusers import QwenImageLayeredPipeline
from diffusers.image_processor import VaeImageProcessor
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

from services.model_families.qwen_image.configuration import MAX_PROMPT_TOKENS
from services.model_families.qwen_image.layered.spec import picture_fit
from services.model_families.qwen_image.prompt_encoding import QwenImageEncoder
from services.model_files.directory import ModelDirectory
from services.model_files.modules import load_module, load_part
from services.model_ports.encoding import Encoding, prompt_encodings
from services.model_ports.stages import Images
from services.numerics.prompts import counted_prompts, seeded
from services.numerics.still_image_processor import load_processor
from triptych.domain.family_options import LayeredOptions
from triptych.domain.generation import GenerationParameters


class QwenImageLayeredEncoder(QwenImageEncoder):
    """Does not show the picture to the text encoder unless it is to be captioned."""

    def encodings(
        self, parameters: GenerationParameters, _: Images = (), /
    ) -> tuple[Encoding, ...]:
        """As QwenImageEncoder.encodings; of a caption that is too long the beginning is read.

        Raises:
            InvalidRequest: a prompt has more tokens than the model reads.
        """
        counted = parameters.model_copy(update={"prompt": ""} if _captioned(parameters) else {})
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
    options = parameters.options
    return isinstance(options, LayeredOptions) and bool(options.caption_image)


def load(
    directory: ModelDirectory, dtype: torch.dtype, device: torch.device
) -> QwenImageLayeredEncoder:
    """Loads tokenizer, processor and text encoder.

    Raises:
        ConfigurationError: they cannot be loaded.
    """
    pipeline = QwenImageLayeredPipeline(
        tokenizer=load_part(Qwen2Tokenizer, directory, "tokenizer"),
        processor=load_processor(directory, "processor"),
        text_encoder=load_module(
            Qwen2_5_VLForConditionalGeneration, directory, "text_encoder", dtype, device
        ),
        scheduler=None,
        vae=None,
        transformer=None,
    )
    return QwenImageLayeredEncoder(pipeline, device)
