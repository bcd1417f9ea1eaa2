"""Files that are there whole or not at all."""

import os
import secrets
from pathlib import Path


def write_whole(path: str | os.PathLike[str], data: bytes) -> Path:
    """Writes a file of which nobody ever reads half.

    Raises:
        OSError: it cannot be written; what was there before is still there.
    """
    target = Path(path)
    partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    try:
        partial.write_bytes(data)
        partial.replace(target)
    except OSError as error:
        # A full disk does not say whose.
        error.filename = str(target)
        raise
    finally:
        partial.unlink(missing_ok=True)
    return target
