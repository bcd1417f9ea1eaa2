"""The processor of Qwen2.5-VL for text and still images."""

from pathlib import Path
from typing import Self

from transformers import (
    ProcessorMixin,
    Qwen2Tokenizer,
    Qwen2VLImageProcessorPil,
    Qwen2VLProcessor,
)

from services.model_files.directory import ModelDirectory
from services.model_files.modules import load_part


class StillImageProcessor(Qwen2VLProcessor):  # type: ignore[misc]  # published without types
    """Stands in for the published class, which cannot be made without torchvision.

    Its part for videos needs torchvision, and no pipeline here uses it. Transformers reads from a
    constructor's signature which parts there are: this one has no video part. Pictures are scaled
    by Pillow, whether torchvision is there or not: the two differ by up to a tenth per pixel value.
    """

    def __init__(
        self,
        image_processor: Qwen2VLImageProcessorPil,
        tokenizer: Qwen2Tokenizer,
        chat_template: str | None = None,
    ) -> None:
        self.image_token, self.video_token = "<|image_pad|>", "<|video_pad|>"
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        self.video_token_id = tokenizer.convert_tokens_to_ids(self.video_token)
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)

    @classmethod
    def new(cls, tokenizer: Qwen2Tokenizer) -> Self:
        """With the published limits of a picture's size, in pixels."""
        size = {"shortest_edge": 56 * 56, "longest_edge": 12_845_056}
        return cls(Qwen2VLImageProcessorPil(size=size), tokenizer, tokenizer.chat_template)

    @classmethod
    def from_pretrained(cls, path: Path, **options: object) -> Self:
        """Reads what `save_pretrained` or the published class wrote."""
        tokenizer = Qwen2Tokenizer.from_pretrained(path, **options)
        images = Qwen2VLImageProcessorPil.from_pretrained(path, **options)
        return cls(images, tokenizer, tokenizer.chat_template)

    def save_pretrained(self, folder: Path) -> None:
        """Writes the published layout, where every part has files of its own."""
        self.image_processor.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


def load_processor(directory: ModelDirectory, subfolder: str) -> StillImageProcessor:
    """Loads a processor from local files.

    Raises:
        ConfigurationError: it cannot be loaded.
    """
    return load_part(StillImageProcessor, directory, subfolder)
