"""A picture that a request carries, as its header describes it."""

from pydantic import BaseModel, ConfigDict


class InputImage(BaseModel):
    """The encoded bytes travel apart from this, to the stages that read them.

    Attributes:
        width: in pixels, the right way up (its EXIF orientation applied).
        height: in pixels, the right way up.
        size_bytes: of the encoded picture.
        checksum_xxh3: XXH3-64 of the encoded picture.
    """

    model_config = ConfigDict(frozen=True)

    width: int
    height: int
    size_bytes: int
    checksum_xxh3: int
