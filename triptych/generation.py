"""What came out of a request, with its bytes."""

import io
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path

from triptych.domain.generation_result import GenerationResult
from triptych.domain.model import MediaFormat
from triptych.whole_file import write_whole


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation(GenerationResult):
    """A finished picture or video, or several, verified against the announced sizes and checksums.

    What is said of one result is said of the first; `artifacts` says it of each.

    Attributes:
        files: the encoded pictures, videos, or archives of pictures, as many as were asked for.
    """

    job_id: str
    files: tuple[bytes, ...]

    @property
    def data(self) -> bytes:
        """The first of the files."""
        return self.files[0]

    @property
    def media_format(self) -> MediaFormat:
        """Of the files: for example "png", "jpeg", "mp4" or "png_archive"."""
        return self.artifacts[0].media_format

    @property
    def width(self) -> int:
        """In pixels."""
        return self.artifacts[0].width

    @property
    def height(self) -> int:
        """In pixels."""
        return self.artifacts[0].height

    @property
    def num_frames(self) -> int:
        """Frames of a video, or layers of a picture; 1 for a picture in one piece."""
        return self.artifacts[0].num_frames

    @property
    def checksum_xxh3(self) -> int:
        """XXH3-64 of `data`."""
        return self.artifacts[0].checksum_xxh3

    @property
    def tile_size(self) -> int:
        """Side in pixels of the tiles that the VAE works in; 0 if it works in none."""
        return self.artifacts[0].tile_size

    @property
    def seed(self) -> int:
        """The seed that was used; the same seed and parameters give the same picture."""
        return self.parameters.seed

    def pictures(self) -> list[bytes]:
        """Encoded pictures: one of each result, or the layers or frames in their order.

        Raises:
            ValueError: this is a video, whose frames have to be decoded.
        """
        if self.media_format.is_picture:
            return list(self.files)
        if self.media_format is MediaFormat.PNG_ARCHIVE:
            return [picture for data in self.files for picture in _unpacked(data)]
        raise ValueError(
            f"media_format is {self.media_format}, which holds no PNG files;"
            " ask for media_format='png_archive' to get them"
        )

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes the one file: whole or not at all, and nobody ever reads half of it.

        Raises:
            OSError: the file cannot be written; what was there before is still there.
            ValueError: there are several files.
        """
        if len(self.files) > 1:
            raise ValueError(f"there are {len(self.files)} files; save them by save_all")
        return write_whole(path, self.data)

    def save_all(self, path: str | os.PathLike[str]) -> list[Path]:
        """Writes every file, each as `save` does: name-1.png, name-2.png and so on of name.png.

        Raises:
            OSError: a file cannot be written; those before it are there.
        """
        return [
            write_whole(name, data) for name, data in zip(self.paths(path), self.files, strict=True)
        ]

    def paths(self, path: str | os.PathLike[str]) -> list[Path]:
        """What `save_all` writes."""
        target = Path(path)
        if len(self.files) == 1:
            return [target]
        numbers = range(1, len(self.files) + 1)
        return [target.with_stem(f"{target.stem}-{number}") for number in numbers]


def _unpacked(data: bytes) -> list[bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return [archive.read(entry) for entry in archive.infolist()]
