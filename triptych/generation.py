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
    """A finished picture or video, verified against the announced size and checksum.

    Attributes:
        data: the encoded picture, video, or archive of pictures.
    """

    job_id: str
    data: bytes

    @property
    def media_format(self) -> MediaFormat:
        """Of `data`: "png", "mp4" or "png_archive"."""
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
        """PNG files: the one picture, or the layers or frames in their order.

        Raises:
            ValueError: this is a video, whose frames have to be decoded.
        """
        match self.media_format:
            case MediaFormat.PNG:
                return [self.data]
            case MediaFormat.PNG_ARCHIVE:
                with zipfile.ZipFile(io.BytesIO(self.data)) as archive:
                    return [archive.read(entry) for entry in archive.infolist()]
        raise ValueError(
            f"media_format is {self.media_format}, which holds no PNG files;"
            " ask for media_format='png_archive' to get them"
        )

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes `data`: whole or not at all, and nobody ever reads half of it.

        Raises:
            OSError: the file cannot be written; what was there before is still there.
        """
        return write_whole(path, self.data)
