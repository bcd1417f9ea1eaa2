"""Objects in a bucket of an S3 server."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, BinaryIO, Final

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import S3Store

from services.artifacts.object_place import READ_BYTES, Draft, ObjectMissing, ObjectPlace
from triptych.domain.errors import AlreadyExists, ConfigurationError, Unavailable

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig, S3Config

PART_BYTES: Final = 8 << 20
"""What one request carries of an object that is larger."""

# Of one object: as many parts are in memory.
_PARTS_AT_ONCE: Final = 2

_CONNECTING: Final = timedelta(seconds=5)
_RETRIES: "RetryConfig" = {"max_retries": 3, "retry_timeout": timedelta(seconds=20)}


class S3Place(ObjectPlace):
    """A bucket below a prefix.

    A draft is a temporary file here, and is sent when it is kept, in parts if it is large; the
    server makes it an object whole or not at all. Parts that a killed process sent stay invisible:
    a lifecycle rule of the bucket (AbortIncompleteMultipartUpload) removes them.

    Args:
        store: the client, of the bucket and the prefix.
        shown: what to call it in messages.
    """

    shared = True

    def __init__(self, store: S3Store, shown: str) -> None:
        self._store = store
        self._shown = shown

    @classmethod
    def connect(
        cls,
        bucket: str,
        prefix: str,
        *,
        endpoint: str | None,
        region: str | None,
        credentials: tuple[str, str] | None,
        timeout_seconds: float,
    ) -> "S3Place":
        """Opens a bucket, and lists it once to see that it can be used.

        Args:
            bucket: its name.
            prefix: what all names begin with; "" for none.
            endpoint: URL of the server; None for AWS.
            region: the bucket's; None for what the environment says.
            credentials: access key id and secret; None for the environment's or the instance's.
            timeout_seconds: the longest one request may take.

        Raises:
            ConfigurationError: the bucket is not there or cannot be read, or no server answers.
        """
        timeout = timedelta(seconds=timeout_seconds)
        client: ClientConfig = {"timeout": timeout, "connect_timeout": min(timeout, _CONNECTING)}
        if endpoint is not None and endpoint.startswith("http://"):
            client["allow_http"] = True
        config: S3Config = {}
        if endpoint is not None:
            config["endpoint"] = endpoint
        if region is not None:
            config["region"] = region
        if credentials is not None:
            config["access_key_id"], config["secret_access_key"] = credentials
        shown = f"s3://{bucket}/{prefix}".rstrip("/")
        try:
            store = S3Store(
                bucket,
                prefix=prefix or None,
                client_options=client,
                retry_config=_RETRIES,
                config=config,
            )
            obstore.list_with_delimiter(store)
        except (BaseError, OSError, ValueError) as error:
            raise ConfigurationError(
                f"artifacts: cannot use {shown}: {_first_line(error)}"
            ) from error
        return cls(store, shown)

    def draft(self) -> Draft:
        """See ObjectPlace."""
        return _TemporaryDraft(self)

    def read(self, name: str, offset: int = 0) -> Iterator[bytes | memoryview]:
        """See ObjectPlace."""
        with self.errors(name):
            if offset >= obstore.head(self._store, name)["size"]:
                # A range that begins at the end is an error to the server.
                return
            found = obstore.get(self._store, name, options={"range": {"offset": offset}})
            for chunk in found.stream(READ_BYTES):
                view = memoryview(chunk)
                for start in range(0, len(view), READ_BYTES):
                    yield view[start : start + READ_BYTES]

    def entries(self, prefix: str) -> Iterator[tuple[str, int]]:
        """See ObjectPlace."""
        with self.errors(prefix):
            for page in obstore.list(self._store, prefix):
                yield from ((found["path"], found["size"]) for found in page)

    def delete(self, name: str) -> None:
        """See ObjectPlace."""
        try:
            with self.errors(name):
                obstore.delete(self._store, name)
        except ObjectMissing:
            return

    def url(self, name: str, seconds: float) -> str | None:
        """See ObjectPlace."""
        with self.errors(name):
            return obstore.sign(self._store, "GET", name, timedelta(seconds=seconds))

    def sweep(self) -> None:
        """Nothing: drafts are temporary files without a name, which go with their writers."""

    def send(self, name: str, content: BinaryIO, kind: str) -> None:
        """Makes an object of a file's bytes, in the time that its parts take.

        Raises:
            AlreadyExists: the name is taken.
        """
        size_bytes = content.tell()
        content.seek(0)
        attributes = {"Content-Type": kind}
        with self.errors(name):
            if size_bytes <= PART_BYTES:
                data = content.read()
                obstore.put(self._store, name, data, attributes=attributes, mode="create")
            else:
                obstore.put(
                    self._store,
                    name,
                    content,
                    attributes=attributes,
                    chunk_size=PART_BYTES,
                    max_concurrency=_PARTS_AT_ONCE,
                )

    @contextmanager
    def errors(self, name: str) -> Iterator[None]:
        """Turns what the library says into what callers are told."""
        try:
            yield
        except FileNotFoundError as error:
            raise ObjectMissing(name) from error
        except AlreadyExistsError as error:
            raise AlreadyExists(f"artifacts: {name} is there already") from error
        except (BaseError, OSError) as error:
            raise Unavailable(
                f"artifacts: {self._shown} cannot be used: {_first_line(error)}"
            ) from error


class _TemporaryDraft(Draft):
    def __init__(self, place: S3Place) -> None:
        self._place = place
        with place.errors("a temporary file"):
            self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115

    def write(self, data: bytes | memoryview) -> None:
        with self._place.errors("a temporary file"):
            view = memoryview(data)
            # The system may take less than it is given.
            while view:
                view = view[self._file.write(view) :]

    def content(self) -> bytes:
        with self._place.errors("a temporary file"):
            self._file.seek(0)
            return self._file.read()

    def keep(self, name: str, content_type: str) -> None:
        self._place.send(name, self._file, content_type)

    def discard(self) -> None:
        self._file.close()


def _first_line(error: BaseException) -> str:
    """What it says, without the server's whole answer."""
    return str(error).partition("\n")[0][:300]
