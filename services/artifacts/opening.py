"""Opens the artifact store that a URL names."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Final

from pydantic import ByteSize, Field, HttpUrl

from services.artifacts.artifact_store import ArtifactStore
from services.artifacts.directory import DirectoryPlace
from services.artifacts.memory import MemoryPlace
from services.tensor_store.store_url import StoreOptions, StoreUrl
from triptych.domain.errors import ConfigurationError

DEFAULT_MEMORY_BYTES: Final = 512 << 20


class PlaceOptions(StoreOptions):
    """What every place takes.

    Attributes:
        quota_bytes: of all tenants' artifacts together; no limit where it is not given.
    """

    quota_bytes: Annotated[ByteSize, Field(gt=0)] | None = None


class MemoryOptions(PlaceOptions):
    """Of `memory:`, which always has a limit."""

    quota_bytes: Annotated[ByteSize, Field(gt=0)] = ByteSize(DEFAULT_MEMORY_BYTES)


class S3Options(PlaceOptions):
    """Of `s3:`.

    Attributes:
        endpoint: URL of the server; AWS by default.
        region: of the bucket; what the environment says by default.
        access_key_id: of the credentials; with it comes the file of the secret. Without them the
            environment's are used, or the instance's, as the AWS tools would.
        secret_access_key_file: file that holds the secret and nothing else.
        timeout_seconds: the longest one request may take.
    """

    endpoint: HttpUrl | None = None
    region: Annotated[str, Field(min_length=1)] | None = None
    access_key_id: Annotated[str, Field(min_length=1)] | None = None
    secret_access_key_file: Path | None = None
    timeout_seconds: Annotated[float, Field(gt=0, le=3600)] = 30.0


def open_artifact_store(url: str) -> ArtifactStore:
    """Opens a store.

    Args:
        url: for example "memory:?quota_bytes=512MiB", "file:///var/lib/triptych/artifacts" or
            "s3://bucket/prefix?endpoint=http://host:8333".

    Raises:
        ConfigurationError: the URL is not allowed, or its place cannot be used; says why.
    """
    try:
        return _opened(StoreUrl.parse(url))
    except ConfigurationError as error:
        # The parser of URLs calls every store one.
        raise ConfigurationError(f"artifacts: {str(error).removeprefix('store: ')}") from error


def _opened(address: StoreUrl) -> ArtifactStore:
    if address.scheme not in _PLACES:
        raise ConfigurationError(
            f"store: {address.text!r} has the scheme {address.scheme!r};"
            f" allowed are {', '.join(_PLACES)}"
        )
    return _PLACES[address.scheme](address)


def _memory(address: StoreUrl) -> ArtifactStore:
    address.refuse_location()
    options = address.options(MemoryOptions)
    return ArtifactStore(MemoryPlace(), quota_bytes=options.quota_bytes)


def _directory(address: StoreUrl) -> ArtifactStore:
    if address.host or not address.path.startswith("/"):
        raise ConfigurationError(
            f"store: {address.text!r} names no directory; allowed is file:///directory"
        )
    options = address.options(PlaceOptions)
    return ArtifactStore(DirectoryPlace(Path(address.path)), quota_bytes=options.quota_bytes)


def _s3(address: StoreUrl) -> ArtifactStore:
    try:
        from services.artifacts.s3 import S3Place
    except ImportError as error:
        raise ConfigurationError(
            "store: s3:// needs the package obstore; install triptych[s3]"
        ) from error
    if not address.host or "@" in address.host:
        raise ConfigurationError(
            f"store: {address.text!r} names no bucket; allowed is s3://bucket/prefix"
        )
    options = address.options(S3Options)
    place = S3Place.connect(
        address.host,
        address.path.strip("/"),
        endpoint=None if options.endpoint is None else str(options.endpoint).rstrip("/"),
        region=options.region,
        credentials=_credentials(options),
        timeout_seconds=options.timeout_seconds,
    )
    return ArtifactStore(place, quota_bytes=options.quota_bytes)


def _credentials(options: S3Options) -> tuple[str, str] | None:
    key_id, file = options.access_key_id, options.secret_access_key_file
    if key_id is None and file is None:
        return None
    if key_id is None or file is None:
        raise ConfigurationError(
            "store: access_key_id and secret_access_key_file go together; one is missing"
        )
    try:
        return key_id, file.read_text().strip()
    except OSError as error:
        raise ConfigurationError(
            f"store: secret_access_key_file: cannot read {file}: {error.strerror}"
        ) from error


_PLACES: Mapping[str, Callable[[StoreUrl], ArtifactStore]] = {
    "memory": _memory,
    "file": _directory,
    "s3": _s3,
}
