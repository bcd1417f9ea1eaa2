"""What requests call a model that nobody has named."""

import re
import unicodedata
from typing import Final

from triptych.domain.errors import ConfigurationError

MODEL_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
ALLOWED: Final = (
    "allowed are 1 to 64 of the letters a to z and A to Z, digits, '.', '_' and '-', the first a"
    " letter or a digit"
)

_MOST_CHARACTERS: Final = 64
_FOREIGN: Final = re.compile(r"[^A-Za-z0-9._-]+")


def model_name(folder: str) -> str:
    """A name for the model in a folder, or in a repository, that is called so.

    What a name may not have becomes a dash, and letters lose their accents: "Qwen Image" is served
    as Qwen-Image, "bildmodell-ü" as bildmodell-u.

    Raises:
        ConfigurationError: nothing is left to make a name of.
    """
    plain = unicodedata.normalize("NFKD", folder)
    letters = "".join(mark for mark in plain if not unicodedata.combining(mark))
    name = _FOREIGN.sub("-", letters).strip("-._")[:_MOST_CHARACTERS]
    if not MODEL_NAME.fullmatch(name):
        raise ConfigurationError(
            f"model: no name can be made of {folder!r}; give the model one with --model-name of"
            f' each stage, or with {{"name": "..."}} in its triptych.json: {ALLOWED}'
        )
    return name
