"""How the denoising loop of one request may be accelerated."""

from enum import StrEnum


class CacheMethod(StrEnum):
    """A way to reuse work between denoising steps."""

    NONE = "none"
    TEA_CACHE = "tea_cache"
    CACHE_DIT = "cache_dit"


class ParallelMethod(StrEnum):
    """A way to spread one denoising step over ranks."""

    ULYSSES = "ulysses"
    RING = "ring"
    CFG = "cfg"
