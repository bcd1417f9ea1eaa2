"""Pictures that a request takes in."""

import os
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class UploadedImage:
    """A picture that the cluster keeps for a while; several requests may take it in.

    Attributes:
        upload_id: what requests name it by.
        width: in pixels, the right way up.
        height: in pixels, the right way up.
    """

    upload_id: str
    width: int
    height: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageDescription:
    """An input picture as the cluster read it from its header; its bytes travel apart from this.

    Attributes:
        width: in pixels, the right way up (its EXIF orientation applied).
        height: in pixels, the right way up.
        size_bytes: of the encoded picture.
        checksum_xxh3: XXH3-64 of the encoded picture.
    """

    width: int
    height: int
    size_bytes: int
    checksum_xxh3: int


ImageFile = bytes | str | os.PathLike[str]
"""An encoded picture (PNG, JPEG or WebP), or the path of a file that holds one."""

InputImage = ImageFile | UploadedImage
"""As a caller names one."""
