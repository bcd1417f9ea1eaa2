"""Options of model families on the wire."""

from triptych.domain.family_options import (
    GROUPS,
    BagelOptions,
    FamilyOptions,
    FluxOptions,
    LayeredOptions,
    LongCatOptions,
    VideoOptions,
)
from triptych.v1 import generation_pb2


def options_from_proto(message: generation_pb2.GenerationParameters) -> FamilyOptions | None:
    """The options a message carries; what it leaves out is None in them."""
    group = message.WhichOneof("family_options")
    if group is None:
        return None
    values = {field.name: value for field, value in getattr(message, group).ListFields()}
    options = GROUPS[group].model_validate(values)
    assert isinstance(
        options, VideoOptions | LayeredOptions | LongCatOptions | BagelOptions | FluxOptions
    )
    return options


def write_options(
    options: FamilyOptions | None, message: generation_pb2.GenerationParameters
) -> None:
    """Sets a message's options."""
    if options is None:
        return
    written = getattr(message, options.kind)
    # Set even if it is empty: it says whose options they are.
    written.SetInParent()
    for name, value in options.model_dump(exclude={"kind"}, exclude_none=True).items():
        setattr(written, name, value)
