"""Drawing a result again, and saying what became of it."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, cast

import xxhash
from google.protobuf import json_format

from triptych.codec.tables import RESULTS
from triptych.domain.errors import InvalidRequest
from triptych.domain.generation import GenerationParameters, RequestOptions
from triptych.domain.generation_result import GenerationResult
from triptych.v1 import generation_pb2

_EFFECTIVE: Final = RequestOptions.__annotations__.keys() - {"images", "preview_every_steps"}


def write_receipt(result: GenerationResult) -> str:
    """A result without its bytes as JSON, for `read_receipt`."""
    return json_format.MessageToJson(RESULTS.write(result), indent=2)


def read_receipt(text: str) -> GenerationResult:
    """What `write_receipt` wrote, also of a later release.

    Raises:
        InvalidRequest: it is something else.
    """
    try:
        message = json_format.Parse(
            text, generation_pb2.GenerationResult(), ignore_unknown_fields=True
        )
        result: GenerationResult = RESULTS.read(message, strict=False)
    except (json_format.ParseError, InvalidRequest, ValueError) as error:
        raise InvalidRequest.of("receipt", f"is none: {error}") from error
    if not result.artifacts:
        raise InvalidRequest.of("receipt", "is none: it has no artifacts")
    return result


def options_of(parameters: GenerationParameters, images: Sequence[bytes]) -> RequestOptions:
    """What asks for the same again, beside the prompt: every effective value, none by default.

    Args:
        parameters: of the result.
        images: encoded pictures, in any order; those of the result's input images are taken.

    Raises:
        InvalidRequest: one of the result's images is not among them.
    """
    asked = {name: getattr(parameters, name) for name in _EFFECTIVE}
    # No bytes depend on previews.
    asked |= {"preview_every_steps": 0, "images": tuple(_found(parameters, images))}
    return cast(RequestOptions, asked)


def differences(before: GenerationResult, after: GenerationResult) -> list[str]:
    """What a result has other than an earlier one of the same request, in sentences.

    Empty if all bytes are the same: what they depend on is not looked at then.
    """
    bytes_differ = [
        f"{what}: XXH3-64 was {one:016x}, is {other:016x}"
        for what, one, other in _checksums(before, after)
        if one != other
    ]
    if not bytes_differ:
        return []
    depends = {
        "model": (_files(before), _files(after)),
        "software": (_software(before), _software(after)),
        "ranks": ({"degrees": before.parallel_degrees}, {"degrees": after.parallel_degrees}),
        "cache": ({"forwards": _forwards(before)}, {"forwards": _forwards(after)}),
    }
    return bytes_differ + [
        f"{what}: {name} was {_said(had.get(name))}, is {_said(has.get(name))}"
        for what, (had, has) in depends.items()
        for name in sorted({*had, *has})
        if had.get(name) != has.get(name)
    ]


def _found(parameters: GenerationParameters, images: Sequence[bytes]) -> Iterator[bytes]:
    given = {xxhash.xxh3_64_intdigest(image): image for image in images}
    for number, image in enumerate(parameters.images):
        if image.checksum_xxh3 not in given:
            raise InvalidRequest.of(
                f"images[{number}]",
                f"of XXH3-64 {image.checksum_xxh3:016x} is not among the given files",
            )
        yield given[image.checksum_xxh3]


def _checksums(before: GenerationResult, after: GenerationResult) -> Iterator[tuple[str, int, int]]:
    for one, other in zip(before.artifacts, after.artifacts, strict=True):
        yield f"latents {one.index}", one.latents_checksum_xxh3, other.latents_checksum_xxh3
        yield f"file {one.index}", one.checksum_xxh3, other.checksum_xxh3


def _files(result: GenerationResult) -> Mapping[str, object]:
    return {each.part: each.digest for each in result.receipt.fingerprints}


def _software(result: GenerationResult) -> Mapping[str, object]:
    releases: dict[str, list[str]] = {}
    for software in result.receipt.versions:
        releases.setdefault(software.name, []).append(software.version)
    return {name: ", ".join(found) for name, found in releases.items()}


def _forwards(result: GenerationResult) -> object:
    did = result.cache_statistics
    if did is None:
        return None
    return tuple(
        (each.branch, each.computed_forwards, each.reused_forwards) for each in did.branches
    )


def _said(value: object) -> str:
    return "not told" if value is None else str(value)


def read_images(paths: Sequence[Path]) -> list[bytes]:
    """The bytes of picture files.

    Raises:
        OSError: one cannot be read.
    """
    return [path.read_bytes() for path in paths]
