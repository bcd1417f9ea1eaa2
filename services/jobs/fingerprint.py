"""Whether two requests ask for the same."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import MISSING, Field, fields, is_dataclass, replace
from typing import Any

from triptych.domain.generation import GenerationRequest


def fingerprint(request: GenerationRequest, images: Sequence[bytes] = ()) -> str:
    """Hexadecimal SHA-256 of what a request asks for, before anything is drawn or filled in.

    What has its default does not count, so that a release that adds a field agrees with an
    earlier one.

    Args:
        request: as it was asked.
        images: the encoded bytes of its images.
    """
    digests = [hashlib.sha256(image).hexdigest() for image in images]
    told = [_told(replace(request, images=())), digests]
    text = json.dumps(told, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _told(value: Any) -> Any:  # noqa: ANN401 - of a request, whatever its type
    if isinstance(value, list | tuple):
        return [_told(item) for item in value]
    if not is_dataclass(value):
        return value
    held = {name: getattr(value, name) for name in _undefaulted(value)}
    return {"": type(value).__name__} | {name: _told(item) for name, item in held.items()}


def _undefaulted(noun: Any) -> list[str]:  # noqa: ANN401 - any dataclass
    return [known.name for known in fields(noun) if getattr(noun, known.name) != _default(known)]


def _default(known: Field[Any]) -> object:
    made = known.default_factory
    return known.default if made is MISSING else made()
