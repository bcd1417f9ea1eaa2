"""Tiny checkpoints of the published models, built in a moment and never downloaded.

Each is a model directory as its pipeline publishes it: the published classes, factors and
schedules, with few layers, narrow ones, and random weights. The same name gives the same bytes in
every process.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from tests.checkpoints import (
    bagel,
    flux,
    longcat_image,
    ovis_image,
    qwen_image,
    qwen_image_edit,
    sd3,
    wan,
    z_image,
)

MODELS: Mapping[str, Callable[[Path], None]] = {
    "flux.1-dev": flux.build,
    "stable-diffusion-3.5-medium": sd3.build,
    "z-image-turbo": z_image.build,
    "ovis-image-7b": ovis_image.build,
    "longcat-image": longcat_image.build,
    "qwen-image": qwen_image.build,
    "qwen-image-2512": qwen_image.build_2512,
    "wan2.2-t2v-a14b": wan.build,
    "qwen-image-edit": qwen_image_edit.build,
    "qwen-image-edit-2509": qwen_image_edit.build_2509,
    "qwen-image-layered": qwen_image_edit.build_layered,
    "longcat-image-edit": longcat_image.build_edit,
    "bagel-7b-mot": bagel.build,
}
"""What writes each model, by the name it is published under, in small letters."""


def checkpoint(name: str, directory: Path) -> Path:
    """Builds one of `MODELS` as a folder of its own name.

    Args:
        name: a key of `MODELS`.
        directory: where the folder is made.

    Returns:
        The model directory, `directory / name`.
    """
    folder = directory / name
    MODELS[name](folder)
    return folder
