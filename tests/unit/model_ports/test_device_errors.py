import pytest
import torch

from services.torch_setup.device_errors import breaks_device
from triptych.domain.errors import TriptychError


def _raised_from(cause: Exception) -> Exception:
    error = TriptychError("the picture could not be decoded")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError("device-side assert", 710),
        RuntimeError("CUDA error: unspecified launch failure"),
        RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling cublasSgemm"),
        _raised_from(torch.AcceleratorError("illegal memory access", 700)),
    ],
)
def test_an_error_after_which_the_device_gives_nothing_more_is_told(error: Exception) -> None:
    assert breaks_device(error)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("shape mismatch"),
        ValueError("illegal memory access"),
        _raised_from(ValueError("a shape")),
    ],
)
def test_an_error_of_one_request_is_not(error: Exception) -> None:
    assert not breaks_device(error)
