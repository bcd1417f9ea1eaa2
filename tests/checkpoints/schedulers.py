"""Published schedules that several models share."""

from diffusers import FlowMatchEulerDiscreteScheduler


def flux_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """FLUX.1-dev's: shifted towards noise the more tokens a picture has, up to 4096."""
    return FlowMatchEulerDiscreteScheduler(
        shift=3.0,
        use_dynamic_shifting=True,
        base_shift=0.5,
        max_shift=1.15,
        base_image_seq_len=256,
        max_image_seq_len=4096,
    )


def qwen_image_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """Qwen-Image's: shifted up to 8192 tokens, and stretched to end at 0.02."""
    return FlowMatchEulerDiscreteScheduler(
        shift=1.0,
        use_dynamic_shifting=True,
        base_shift=0.5,
        max_shift=0.9,
        base_image_seq_len=256,
        max_image_seq_len=8192,
        shift_terminal=0.02,
    )
