"""A manifest of a model's files: their SHA-256, in the format of `sha256sum`."""

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Self

from triptych.domain.errors import ConfigurationError

# Two spaces for text, one and an asterisk for binary; the bytes are the same.
_LINE = re.compile(r"(?P<digest>[0-9a-f]{64}) [ *](?P<name>[^\\\n]+)")


class Checksums:
    """What a model's files must be. Each file is read once, however many stages load it.

    Args:
        source: the manifest, for messages.
        expected: hexadecimal SHA-256 by path inside the model's directory.
    """

    def __init__(self, source: Path, expected: Mapping[str, str]) -> None:
        self._source = source
        self._expected = expected
        self._checked: set[Path] = set()

    @classmethod
    def read(cls, file: Path) -> Self:
        """Reads a manifest.

        Raises:
            ConfigurationError: it cannot be read, or a line is not one of `sha256sum`, names a file
                outside the directory, or names one twice.
        """
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"model manifest: cannot read {file}: {error}") from error
        expected: dict[str, str] = {}
        for number, line in enumerate(lines, start=1):
            read = _LINE.fullmatch(line)
            name = PurePosixPath(read["name"]) if read else None
            if read is None or name is None or name.is_absolute() or ".." in name.parts:
                raise ConfigurationError(
                    f"model manifest: {file}, line {number}: is {line[:100]!r}; allowed is"
                    " the SHA-256 of a file and its path inside the model, as sha256sum writes them"
                )
            if str(name) in expected:
                raise ConfigurationError(
                    f"model manifest: {file}, line {number}: names {name} again"
                )
            expected[str(name)] = read["digest"]
        return cls(file, expected)

    def check(self, directory: Path, files: Iterable[Path]) -> None:
        """Compares files of a model with the manifest, a piece at a time.

        Args:
            directory: the model's.
            files: those that are about to be loaded, inside it.

        Raises:
            ConfigurationError: one is not listed, or is another than the one that is.
        """
        for file in files:
            if file in self._checked:
                continue
            name = file.relative_to(directory).as_posix()
            if name not in self._expected:
                raise ConfigurationError(
                    f"model manifest: {self._source} does not list {name}, which would be loaded"
                )
            found = _sha256(file)
            if found != self._expected[name]:
                raise ConfigurationError(
                    f"model manifest: {file}: its SHA-256 is {found};"
                    f" {self._source} says {self._expected[name]}"
                )
            self._checked.add(file)


def read_checksums(file: Path | None) -> Checksums | None:
    """Those of a manifest, if one was given.

    Raises:
        ConfigurationError: see Checksums.read.
    """
    return None if file is None else Checksums.read(file)


def _sha256(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise ConfigurationError(f"model manifest: cannot read {file}: {error}") from error
