"""LongCat-Image and -Edit: Qwen2.5-VL, which may rewrite a prompt; double and single blocks."""

from pathlib import Path

from diffusers import LongCatImageTransformer2DModel

from services.numerics.still_image_processor import StillImageProcessor
from tests.checkpoints.directory import write_directory
from tests.checkpoints.schedulers import flux_scheduler
from tests.checkpoints.text_encoders import QWEN_WIDTH, qwen_vl_model
from tests.checkpoints.tokenizers import QWEN_VL_CHAT, qwen_tokenizer
from tests.checkpoints.vaes import LATENT_CHANNELS, flux_vae

_TEMPLATE = (
    "<|im_start|>system\nAs an image captioning expert, generate a descriptive text prompt based on"
    " an image content, suitable for input to a text-to-image model.<|im_end|>\n"
    "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
)


_EDIT_TEMPLATE = (
    "<|im_start|>system\nAs an image editing expert, first analyze the content and attributes of"
    " the input image(s). Then, based on the user's editing instructions, clearly and precisely"
    " determine how to modify the given image(s), ensuring that only the specified parts are"
    " altered and all other aspects remain consistent with the original(s).<|im_end|>\n"
    "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>{}<|im_end|>\n"
    "<|im_start|>assistant\n"
)


def build(directory: Path) -> None:
    """Writes the model that draws from a prompt."""
    _build(directory, "longcat-image", "LongCatImagePipeline", _TEMPLATE)


def build_edit(directory: Path) -> None:
    """Writes the model that changes a picture."""
    _build(directory, "longcat-image-edit", "LongCatImageEditPipeline", _EDIT_TEMPLATE)


def _build(directory: Path, name: str, pipeline_class: str, template: str) -> None:
    tokenizer = qwen_tokenizer([template], chat_template=QWEN_VL_CHAT)
    write_directory(
        directory,
        name,
        pipeline_class,
        {
            "scheduler": flux_scheduler(),
            "text_encoder": qwen_vl_model(tokenizer),
            "text_processor": StillImageProcessor.new(tokenizer),
            "tokenizer": tokenizer,
            "transformer": _transformer(),
            "vae": flux_vae(),
        },
        published_classes={"text_processor": "Qwen2VLProcessor"},
    )


def _transformer() -> LongCatImageTransformer2DModel:
    return LongCatImageTransformer2DModel(
        in_channels=4 * LATENT_CHANNELS,
        num_layers=2,
        num_single_layers=2,
        num_attention_heads=4,
        attention_head_dim=8,
        axes_dims_rope=[4, 2, 2],
        joint_attention_dim=QWEN_WIDTH,
        pooled_projection_dim=QWEN_WIDTH,
    )
