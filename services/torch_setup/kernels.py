"""With what a transformer's blocks are executed: which attention, and whether they are compiled.

Both change the last bits of what a model draws, and nothing is changed unless a process is told to.
"""

from collections.abc import Mapping
from typing import Any

import torch
from diffusers.models.attention_dispatch import AttentionBackendName, dispatch_attention_fn

from triptych.domain.errors import ConfigurationError

# What a backend raises for a device, a type or a library that it cannot use.
_UNUSABLE = (RuntimeError, ValueError, TypeError, ImportError, AssertionError, KeyError)
_HEAD_SIZE = 64


def set_kernels(
    transformers: Mapping[str, torch.nn.Module], attention_backend: str | None, *, compiled: bool
) -> None:
    """What a process that denoises was told.

    Args:
        transformers: a denoiser's components.
        attention_backend: see use_attention; None to leave it.
        compiled: whether to compile_blocks.

    Raises:
        ConfigurationError: see either.
    """
    if attention_backend is not None:
        use_attention(transformers, attention_backend)
    if compiled:
        compile_blocks(transformers)


def attention_backends() -> list[str]:
    """Names of diffusers' attention backends, but for those that fetch code from the hub."""
    return sorted(each.value for each in AttentionBackendName if not each.value.endswith("_hub"))


def use_attention(transformers: Mapping[str, torch.nn.Module], backend: str) -> None:
    """Has transformers call one of diffusers' attention backends.

    Args:
        transformers: a denoiser's components.
        backend: one of attention_backends(), for example "flash".

    Raises:
        ConfigurationError: no such backend, it cannot be used here, or the model would not call it.
    """
    allowed = attention_backends()
    if backend not in allowed:
        raise ConfigurationError(
            f"attention_backend: is {backend!r}; allowed are {', '.join(allowed)}"
        )
    for transformer in transformers.values():
        if not _lets_choose_attention(transformer):
            raise ConfigurationError(
                f"attention_backend: is {backend!r}; {type(transformer).__name__} does not let it"
                " be chosen, leave it out"
            )
        try:
            _set_backend(transformer, backend)
            _try(transformer, backend)
        except _UNUSABLE as error:
            raise ConfigurationError(
                f"attention_backend: {backend!r} cannot be used here: {error}"
            ) from error


def compile_blocks(
    transformers: Mapping[str, torch.nn.Module], *, backend: str = "inductor"
) -> None:
    """Has the repeated blocks of transformers compiled when they are first called.

    Args:
        transformers: a denoiser's components.
        backend: of torch.compile.

    Raises:
        ConfigurationError: diffusers does not say which of a model's blocks can be, or nothing can
            be compiled here.
    """
    for transformer in transformers.values():
        compile_repeated: Any = getattr(transformer, "compile_repeated_blocks", None)
        # Which of its classes are repeated; empty where nobody has tried.
        if compile_repeated is None or not getattr(transformer, "_repeated_blocks", None):
            raise ConfigurationError(
                f"compile_blocks: is true; {type(transformer).__name__} has no blocks that"
                " diffusers compiles, leave it out"
            )
        try:
            _try_compiling(transformer, backend)
        except _UNUSABLE as error:
            reason, _, _ = str(error).partition("\n")
            raise ConfigurationError(
                f"compile_blocks: is true; nothing can be compiled here: {reason}"
            ) from error
        compile_repeated(backend=backend)


def _lets_choose_attention(transformer: torch.nn.Module) -> bool:
    # Others call torch's own, whatever is set, and would ignore it silently.
    processors = [each.processor for each in transformer.modules() if hasattr(each, "processor")]
    return bool(processors) and all(hasattr(each, "_attention_backend") for each in processors)


def _set_backend(transformer: torch.nn.Module, backend: str) -> None:
    set_attention_backend: Any = transformer.set_attention_backend
    set_attention_backend(backend)


def _try_compiling(transformer: torch.nn.Module, backend: str) -> None:
    """What it needs, a C++ compiler above all, torch.compile misses only when it compiles."""
    parameter = next(transformer.parameters())
    one_more: Any = torch.compile(_one_more, backend=backend)
    with torch.no_grad():
        one_more(torch.zeros(1, dtype=parameter.dtype, device=parameter.device))


def _one_more(number: torch.Tensor) -> torch.Tensor:
    return number + 1


def _try(transformer: torch.nn.Module, backend: str) -> None:
    """Many a backend refuses a device or a type only when it is called."""
    parameter = next(transformer.parameters())
    query = torch.zeros(1, 1, 1, _HEAD_SIZE, dtype=parameter.dtype, device=parameter.device)
    with torch.no_grad():
        dispatch_attention_fn(query, query, query, backend=AttentionBackendName(backend))
