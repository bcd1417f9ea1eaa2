"""Options that belong together, and that several commands have or one has no room for."""

from collections.abc import Callable
from functools import wraps
from inspect import Signature, signature
from typing import Any


def with_options(
    command: Callable[..., None], argument: str, options: Callable[..., object]
) -> Callable[..., None]:
    """Gives a command further options in the place of one of its arguments.

    Args:
        command: takes the argument by name.
        argument: what takes all of these options as one value.
        options: makes that value of them; its parameters, all by name, are the options.
    """
    own = signature(command, eval_str=True).parameters
    added = signature(options, eval_str=True).parameters

    # Not the annotations: its arguments are the command's and these options together.
    @wraps(command, assigned=("__module__", "__name__", "__qualname__", "__doc__"))
    def call(*arguments: Any, **given: Any) -> None:  # noqa: ANN401 — whatever the command takes
        value = options(**{name: given.pop(name) for name in added})
        command(*arguments, **given, **{argument: value})

    kept = [parameter for name, parameter in own.items() if name != argument]
    parameters = [*kept, *added.values()]
    call.__signature__ = Signature(parameters)  # type: ignore[attr-defined]  # read by typer
    call.__annotations__ = {each.name: each.annotation for each in parameters}
    return call
