"""How a process that computes sets torch up."""

import torch

from services.torch_setup.memory import import_lasting, keep_freed_memory
from triptych.domain.element_type import ElementType
from triptych.domain.errors import ConfigurationError

_COMPUTED = (ElementType.FLOAT32, ElementType.BFLOAT16, ElementType.FLOAT16)


def set_up_torch(threads: int) -> None:
    """Before anything is computed: threads, memory, and quiet libraries.

    Further threads that compute call hold_threads.

    Args:
        threads: inside one operation; operations themselves run one after another.
    """
    for library in ("diffusers.utils", "transformers.utils"):
        import_lasting(library)
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    keep_freed_memory()
    torch.set_num_threads(threads)
    # Can be set once only, and not after the first operation that uses them.
    if torch.get_num_interop_threads() != 1:
        torch.set_num_interop_threads(1)
    for said in (diffusers_logging, transformers_logging):
        # Its bars would be drawn into the service's log, and its lines would have another form.
        said.disable_progress_bar()
        said.disable_default_handler()
        said.enable_propagation()
    # Its warnings quote prompts.
    diffusers_logging.set_verbosity_error()


def hold_threads() -> None:
    """First on every thread that computes: what set_up_torch was told holds there from now on.

    A new thread has the C library's own number until torch first asks for it, which many a kernel
    never does. Sums that are shared out among another number of threads have other last bits.
    """
    torch.set_num_threads(torch.get_num_threads())


def torch_dtype(element_type: ElementType) -> torch.dtype:
    """The torch type that weights compute in.

    Raises:
        ConfigurationError: weights cannot compute in it.
    """
    if element_type not in _COMPUTED:
        raise ConfigurationError(f"dtype: is {element_type}; allowed are {', '.join(_COMPUTED)}")
    dtype = getattr(torch, element_type)
    assert isinstance(dtype, torch.dtype)
    return dtype


def element_type(dtype: torch.dtype) -> ElementType:
    """What a torch type is called outside torch."""
    return ElementType(str(dtype).removeprefix("torch."))


def torch_device(name: str) -> torch.device:
    """A device that is really there.

    Raises:
        ConfigurationError: no such device on this host.
    """
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        problem = str(error).splitlines()[0]
        raise ConfigurationError(f"device: {name!r} cannot be used: {problem}") from error


def wait_for(device: torch.device) -> None:
    """Returns once the device has done all it was given; a CPU always has."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
