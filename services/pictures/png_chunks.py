"""What of a PNG file is read: its texts and colour profile only where they are of usual size.

A reader takes a file for damaged whose compressed text or profile is large once unpacked, though
nothing of the picture is in it.
"""

import struct
import zlib

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_FRAME = 12
_TEXTS = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")
_LONGEST = 1 << 20
# Of all texts together, a quarter of what the reader allows.
_MOST = 1 << 24


def without_long_texts(data: bytes) -> bytes:
    """A PNG file without what no pixel depends on and its reader would refuse it for.

    Args:
        data: any file; all but PNG is returned as it is, as is what is not made of chunks.
    """
    if not data.startswith(_SIGNATURE):
        return data
    kept, position, room = [data[: len(_SIGNATURE)]], len(_SIGNATURE), _MOST
    while position + _FRAME <= len(data):
        length, kind = struct.unpack(">I4s", data[position : position + 8])
        end = position + _FRAME + length
        size = 0
        if kind in _TEXTS:
            size = _unpacked_size(kind, data[position + 8 : end - 4], min(_LONGEST, room))
        if size <= min(_LONGEST, room):
            kept.append(data[position:end])
            room -= size
        position = end
        if kind == b"IEND":
            break
    kept.append(data[position:])
    return b"".join(kept) if sum(map(len, kept)) != len(data) else data


def _unpacked_size(kind: bytes, content: bytes, limit: int) -> int:
    """Of a text or profile, at most one more than the limit."""
    _, _, rest = content.partition(b"\0")
    if kind == b"iTXt":
        compressed, packed = rest[:1] == b"\1", rest[2:].split(b"\0", 2)[-1]
    else:
        compressed, packed = kind != b"tEXt", rest[1:]
    if not compressed:
        return len(rest)
    try:
        return len(zlib.decompressobj().decompress(packed, limit + 1))
    except zlib.error:
        # Whether that matters is the reader's to say.
        return 0
