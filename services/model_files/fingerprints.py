"""Tells the files of two models apart, without reading all of them."""

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, Final

import xxhash

from services.model_files.directory import INDEX

_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_SAMPLE_BYTES: Final = 64
_MAX_HEADER_BYTES: Final = 100 << 20


def fingerprints(directory: Path) -> dict[str, str]:
    """What each part of a model is, as far as it is here.

    Of weights all names, types, sizes and places count, and a sample of every tensor; of
    configurations everything. Whoever trains a model further changes every tensor that it trains.

    Args:
        directory: the model's. A snapshot of the hub is known by its commit: of its files each
            stage has its own alone.

    Returns:
        16 hexadecimal digits by file of weights, and by folder of configurations.
    """
    if directory.parent.name == "snapshots" and _COMMIT.fullmatch(directory.name):
        return {"revision": directory.name}
    found = {}
    for folder in (directory, *sorted(each for each in directory.iterdir() if each.is_dir())):
        for file in _here(folder.glob("*.safetensors")):
            found[file.relative_to(directory).as_posix()] = _weights(file)
    for name, files in _configurations(directory).items():
        hasher = xxhash.xxh3_64()
        for file in files:
            hasher.update(f"{file.name}:{file.stat().st_size}:".encode())
            hasher.update(file.read_bytes())
        found[f"{name}/*.json"] = hasher.hexdigest()
    return found


def _configurations(directory: Path) -> Mapping[str, list[Path]]:
    folders = {
        folder.name: _here(folder.glob("*.json"))
        for folder in sorted(directory.iterdir())
        if folder.is_dir()
    }
    # Beside it there may be what only one stage reads, or nobody.
    index = _here([directory / INDEX])
    return {name: files for name, files in ({".": index} | folders).items() if files}


def _here(files: Iterable[Path]) -> list[Path]:
    """Those that can be read: a host may hold another stage's files as links to nothing."""
    return sorted(file for file in files if file.is_file() and os.access(file, os.R_OK))


def _weights(file: Path) -> str:
    hasher = xxhash.xxh3_64(str(file.stat().st_size).encode())
    with file.open("rb") as opened:
        header = opened.read(min(int.from_bytes(opened.read(8), "little"), _MAX_HEADER_BYTES))
        hasher.update(header)
        for sample in _samples(opened, header):
            hasher.update(sample)
    return hasher.hexdigest()


def _samples(opened: BinaryIO, header: bytes) -> Iterator[bytes]:
    """The middle of every tensor; of a file that is none of weights, nothing."""
    try:
        tensors = json.loads(header)
        spans = [each["data_offsets"] for name, each in tensors.items() if name != "__metadata__"]
        middles = sorted((int(begin) + int(end)) // 2 for begin, end in spans)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return
    for middle in middles:
        opened.seek(8 + len(header) + max(0, middle - _SAMPLE_BYTES // 2))
        yield opened.read(_SAMPLE_BYTES)
