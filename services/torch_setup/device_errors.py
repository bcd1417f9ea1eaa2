"""Errors that a device does not survive."""

from typing import Final

import torch

# What libraries raise as any RuntimeError, where the kernels of theirs fail.
_FATAL: Final = (
    "unspecified launch failure",
    "illegal memory access",
    "device-side assert",
    "misaligned address",
    "an illegal instruction",
    "uncorrectable ECC error",
    "CUBLAS_STATUS_EXECUTION_FAILED",
    "CUBLAS_STATUS_INTERNAL_ERROR",
    "CUDNN_STATUS_EXECUTION_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR",
)


def breaks_device(error: BaseException) -> bool:
    """Whether the device gives no right results in this process any more, or none at all.

    Args:
        error: as it was raised; what it was raised from counts, too.
    """
    told: BaseException | None = error
    while told is not None:
        if isinstance(told, torch.AcceleratorError) or _is_fatal(told):
            return True
        told = told.__cause__ or told.__context__
    return False


def _is_fatal(error: BaseException) -> bool:
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _FATAL)
