"""Models that compute in float64, so that rounding cannot hide a mistake nor pass for one."""

from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from services.loaded_models.stage_model import StageModel
from services.model_ports.stages import DenoiserModel

_WIDER: dict[object, torch.dtype] = {
    torch.float32: torch.float64,
    torch.complex64: torch.complex128,
}


class DoublePrecision(TorchFunctionMode):
    """Has torch compute in float64 whatever would be computed in float32.

    Published loops and transformers ask for float32 in places, whatever their weights are in.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Calls a function with wider types, and widens what it gives."""
        if func is torch.Tensor.float:
            func = torch.Tensor.double
        args, kwargs = _widened(args), _widened(kwargs or {})
        if func is torch.randn:
            # A seed draws other numbers in another type.
            kwargs = {**kwargs, "dtype": torch.float32}
        return _widened(func(*args, **kwargs))


def widened(model: StageModel[DenoiserModel]) -> StageModel[DenoiserModel]:
    """The same model, with its weights in float64."""
    for component in model.model.components.values():
        component.double()
    return model


def widened_tensors(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same tensors, each in float64 that was in float32."""
    return {name: _widened(each) for name, each in tensors.items()}


def _widened(value: Any) -> Any:
    if isinstance(value, torch.dtype):
        return _WIDER.get(value, value)
    if isinstance(value, torch.Tensor) and value.dtype in _WIDER:
        return value.to(_WIDER[value.dtype])
    if type(value) in (list, tuple):
        return type(value)(map(_widened, value))
    if type(value) is dict:
        return {name: _widened(each) for name, each in value.items()}
    return value
