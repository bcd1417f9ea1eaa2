"""Text encoders of the published architectures, two layers deep."""

from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3Model,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
    UMT5Config,
    UMT5EncoderModel,
)

QWEN_WIDTH = 32
"""Values per token that the Qwen text encoders return."""


def clip_text_model(tokenizer: CLIPTokenizer, width: int) -> CLIPTextModel:
    """CLIP ViT-L's text tower; its pooled output has `width` values."""
    return CLIPTextModel(_clip_config(tokenizer, width, "quick_gelu"))


def clip_text_model_with_projection(
    tokenizer: CLIPTokenizer, width: int, activation: str
) -> CLIPTextModelWithProjection:
    """A CLIP text tower whose pooled output is projected, to `width` values as well.

    Args:
        tokenizer: whose vocabulary it reads.
        width: values per token.
        activation: "quick_gelu" for ViT-L, "gelu" for OpenCLIP's ViT-bigG.
    """
    return CLIPTextModelWithProjection(_clip_config(tokenizer, width, activation))


def t5_encoder(tokenizer: T5TokenizerFast, width: int) -> T5EncoderModel:
    """The encoder of T5 v1.1; returns `width` values per token."""
    return T5EncoderModel(T5Config(**_t5_sizes(tokenizer, width)))


def umt5_encoder(tokenizer: T5TokenizerFast, width: int) -> UMT5EncoderModel:
    """UMT5's encoder, where every layer has its own position bias; `width` values per token."""
    return UMT5EncoderModel(UMT5Config(**_t5_sizes(tokenizer, width)))


def qwen3_model(tokenizer: Qwen2Tokenizer) -> Qwen3Model:
    """Qwen3 without its language-model head; returns `QWEN_WIDTH` values per token."""
    return Qwen3Model(
        Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=QWEN_WIDTH,
            intermediate_size=2 * QWEN_WIDTH,
            # One more than elsewhere: pipelines read the output of the last layer but one.
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=QWEN_WIDTH // 4,
            max_position_embeddings=40960,
            tie_word_embeddings=True,
            rope_parameters={"rope_type": "default", "rope_theta": 1_000_000.0},
            bos_token_id=tokenizer.convert_tokens_to_ids("<|endoftext|>"),
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def qwen_vl_model(tokenizer: Qwen2Tokenizer) -> Qwen2_5_VLForConditionalGeneration:
    """Qwen2.5-VL with a vision tower that works; returns `QWEN_WIDTH` values per token."""
    token = tokenizer.convert_tokens_to_ids
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": QWEN_WIDTH,
        "intermediate_size": 2 * QWEN_WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128000,
        "tie_word_embeddings": False,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1_000_000.0,
            "mrope_section": [2, 1, 1],
        },
        "bos_token_id": token("<|endoftext|>"),
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {
        "depth": 2,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_heads": 2,
        "out_hidden_size": QWEN_WIDTH,
        "window_size": 112,
        "fullatt_block_indexes": [1],
    }
    config = Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        vision_token_id=token("<|vision_pad|>"),
        tie_word_embeddings=False,
    )
    return Qwen2_5_VLForConditionalGeneration(config)


def _clip_config(tokenizer: CLIPTokenizer, width: int, activation: str) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=width,
        num_hidden_layers=2,
        num_attention_heads=2,
        hidden_act=activation,
        max_position_embeddings=77,
        bos_token_id=tokenizer.bos_token_id,
        # As published: it says "take the highest id", which the end has.
        eos_token_id=2,
        pad_token_id=tokenizer.pad_token_id,
    )


def _t5_sizes(tokenizer: T5TokenizerFast, width: int) -> dict[str, object]:
    return {
        "vocab_size": len(tokenizer),
        "d_model": width,
        "d_kv": width // 4,
        "d_ff": 2 * width,
        "num_layers": 2,
        "num_heads": 4,
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "decoder_start_token_id": tokenizer.pad_token_id,
    }
