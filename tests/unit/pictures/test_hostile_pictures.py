import io
import math
import struct
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from services.pictures.input_picture import (
    MAX_PIXELS,
    decode_described,
    decode_picture,
    describe_picture,
)
from services.pictures.png_chunks import without_long_texts
from tests.unit.pictures.drawn import (
    KINDS,
    ORIENTATION,
    Chunk,
    chunks_of,
    drawn,
    encoded,
    png_of,
    refusal,
    turned,
)
from triptych.domain.errors import InvalidRequest

# What Pillow keeps text under, and then reads as something else.
_MISREAD = (b"exif", b"transparency", b"icc_profile", b"interlace", b"XML:com.adobe.xmp", b"xmp")
_ONE = struct.pack("<I", 1)


def exif_of(kind: int, value: bytes, count: bytes = _ONE) -> bytes:
    """Metadata that give the orientation as a value of some kind, after TIFF."""
    inline, behind = (value, b"") if len(value) <= 4 else (struct.pack("<I", 26), value)
    entry = struct.pack("<HH", ORIENTATION, kind) + count + inline.ljust(4, b"\0")
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, 1) + entry + bytes(4) + behind


def behind_the_pixels(*chunks: Chunk) -> bytes:
    """A PNG that has something more to say at its end."""
    *pixels, end = chunks_of(encoded(drawn()))
    return png_of([*pixels, *chunks, end])


def in_front_of_the_pixels(picture: Image.Image, *chunks: Chunk) -> bytes:
    """A PNG that has something more to say in its header."""
    header, *rest = chunks_of(encoded(picture))
    return png_of([header, *chunks, *rest])


NONSENSE = {
    "beyond the last": exif_of(3, struct.pack("<H", 9)),
    "far beyond": exif_of(4, struct.pack("<I", 2**32 - 1)),
    "divided by zero": exif_of(5, struct.pack("<II", 1, 0)),
    "infinite": exif_of(11, struct.pack("<f", math.inf)),
    "infinite below": exif_of(12, struct.pack("<d", -math.inf)),
    "not a number": exif_of(11, struct.pack("<f", math.nan)),
    "a word": exif_of(2, b"up\0\0", struct.pack("<I", 4)),
    "too many": exif_of(3, b"", struct.pack("<I", 2**31)),
    "nothing": b"Exif\0\0",
    "no metadata": b"Exif\0\0nonsense",
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("exif", NONSENSE.values(), ids=NONSENSE)
def test_an_orientation_that_makes_no_sense_is_upright(kind: str, exif: bytes) -> None:
    data = encoded(drawn(), kind, exif=exif)
    assert describe_picture("images[0]", data).width == 40
    assert decode_picture("images[0]", data).size == (40, 24)


@given(st.sampled_from(KINDS), st.binary(max_size=60))
def test_whatever_metadata_say_a_picture_is_decoded(kind: str, exif: bytes) -> None:
    data = encoded(drawn(), kind, exif=b"Exif\0\0" + exif)
    for read in (describe_picture, decode_picture):
        read("images[0]", data)


def test_what_a_picture_says_behind_its_pixels_must_not_change_its_size() -> None:
    on_its_side = behind_the_pixels((b"eXIf", turned(6).tobytes()[6:]))
    described = describe_picture("images[0]", on_its_side)
    assert (described.width, described.height) == (40, 24)
    with pytest.raises(InvalidRequest) as caught:
        decode_described(0, described, on_its_side)
    assert str(caught.value) == "images[0]: is 24 x 40 pixels; its header says 40 x 24"


def test_a_picture_that_says_behind_its_pixels_that_it_lies_on_its_head_is_turned() -> None:
    data = behind_the_pixels((b"eXIf", turned(3).tobytes()[6:]))
    upright = decode_described(0, describe_picture("images[0]", data), data)
    shown = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert upright.tobytes() == shown.tobytes() != drawn().tobytes()


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_a_transparent_colour_that_is_none_is_refused(mode: str) -> None:
    data = in_front_of_the_pixels(drawn(mode), (b"tEXt", b"transparency\0glass"))
    assert refusal(decode_picture, data).startswith("cannot be decoded: ")


def _with_text(*, zipped_by_itself: bool) -> bytes:
    info = PngInfo()
    if zipped_by_itself:
        info.add_itxt("Comment", "a" * 2**24, zip=True)
    else:
        info.add_text("Comment", "a" * 2**24, zip=True)
    return encoded(drawn(), pnginfo=info)


@pytest.mark.parametrize(
    "data",
    [
        _with_text(zipped_by_itself=False),
        _with_text(zipped_by_itself=True),
        encoded(drawn(), icc_profile=bytes(2**24)),
    ],
    ids=["zTXt", "iTXt", "iCCP"],
)
def test_a_text_or_profile_that_would_burst_is_left_packed(data: bytes) -> None:
    assert len(data) < 100_000
    with pytest.raises(ValueError, match="Decompressed data too large"):
        Image.open(io.BytesIO(data)).load()
    assert describe_picture("images[0]", data).width == 40
    assert decode_picture("images[0]", data).tobytes() == drawn().tobytes()


def test_many_texts_are_read_up_to_a_limit_together() -> None:
    info = PngInfo()
    for number in range(100):
        info.add_text(f"Comment {number}", "a" * (2**20 - 1), zip=True)
    data = encoded(drawn(), pnginfo=info)
    assert decode_picture("images[0]", data).tobytes() == drawn().tobytes()
    assert len(without_long_texts(data)) < len(data)


def test_texts_of_usual_size_are_read() -> None:
    info = PngInfo()
    info.add_text("Comment", "a" * 1000, zip=True)
    data = encoded(drawn(), pnginfo=info, exif=turned(3))
    assert without_long_texts(data) is data
    turned_over = drawn().transpose(Image.Transpose.ROTATE_180)
    assert decode_picture("images[0]", data).tobytes() == turned_over.tobytes()


def test_a_jpeg_that_claims_a_great_size_is_refused_by_its_header() -> None:
    data = bytearray(encoded(drawn(), "JPEG"))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", 65_500, 65_500)
    for read in (describe_picture, decode_picture):
        assert f"allowed are at most {MAX_PIXELS} pixels" in refusal(read, bytes(data))


def test_a_webp_that_claims_a_great_size_is_refused_by_its_header() -> None:
    canvas = bytes(4) + struct.pack("<I", 16_383)[:3] * 2
    chunk = b"WEBPVP8X" + struct.pack("<I", len(canvas)) + canvas
    data = b"RIFF" + struct.pack("<I", len(chunk)) + chunk
    for read in (describe_picture, decode_picture):
        assert f"allowed are at most {MAX_PIXELS} pixels" in refusal(read, data)


def test_a_picture_behind_another_is_not_looked_at() -> None:
    first, second = encoded(drawn()), encoded(drawn(size=(8, 8)))
    assert decode_picture("images[0]", first + second).tobytes() == drawn().tobytes()


@given(st.binary(max_size=200))
def test_whatever_comes_is_a_picture_or_refused(data: bytes) -> None:
    for read in (describe_picture, decode_picture):
        with pytest.raises(InvalidRequest):
            read("images[0]", data)


def read_as_models_do(data: bytes) -> None:
    """Whatever is wrong must be found before a model converts the picture."""
    with suppress(InvalidRequest):
        described = describe_picture("images[0]", data)
        decoded = decode_described(0, described, data)
        for mode in ("RGB", "RGBA"):
            decoded.convert(mode)


ORIGINALS = [
    encoded(drawn(), "PNG", exif=turned(6)),
    encoded(drawn("P"), "PNG", transparency=3),
    encoded(drawn(), "JPEG", exif=turned(6)),
    encoded(drawn("CMYK"), "JPEG"),
    encoded(drawn(), "MPO", save_all=True, append_images=[drawn()]),
    encoded(drawn("RGBA"), "WEBP", exif=turned(6)),
]


@given(st.sampled_from(ORIGINALS), st.data())
def test_damaged_pictures_are_decoded_or_refused(original: bytes, draw: st.DataObject) -> None:
    damaged = bytearray(original)
    for _ in range(draw.draw(st.integers(1, 6))):
        place = draw.draw(st.integers(0, len(damaged) - 1))
        damaged[place] = draw.draw(st.integers(0, 255))
    read_as_models_do(bytes(damaged))


@given(st.sampled_from(ORIGINALS), st.floats(0, 1, exclude_max=True))
def test_pictures_cut_off_anywhere_are_decoded_or_refused(original: bytes, share: float) -> None:
    read_as_models_do(original[: int(share * len(original))])


_PARTS = [
    list(chunks_of(encoded(drawn(mode), exif=turned(6)))) for mode in ("1", "L", "LA", "P", "RGB")
]
_KINDS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"eXIf", b"iCCP", b"acTL", b"fcTL", b"fdAT", b"abCd")
_texts = st.tuples(st.sampled_from(_MISREAD), st.binary(max_size=12)).map(b"\0".join)
_chunks = st.tuples(st.just(b"tEXt"), _texts) | st.tuples(
    st.sampled_from(_KINDS), st.binary(max_size=40)
)


@given(st.sampled_from(_PARTS), st.lists(st.tuples(st.integers(0, 9), _chunks), max_size=3))
def test_png_parts_that_do_not_belong_together_are_decoded_or_refused(
    parts: list[Chunk], added: list[tuple[int, Chunk]]
) -> None:
    mixed = list(parts)
    for place, chunk in added:
        mixed.insert(place, chunk)
    read_as_models_do(png_of(mixed))
