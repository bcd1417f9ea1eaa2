"""Who may ask the gateway, and how much: keys, the tenants they belong to, their quotas."""

import hashlib
import hmac
from pathlib import Path
from typing import Annotated, Final, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from services.observability.logs import get_logger
from services.rpc.guard import Call, Metadata
from triptych.domain.errors import ConfigurationError, Unauthenticated

_log = get_logger(__name__)

_HEADER: Final = "authorization"
_SCHEME: Final = "bearer "


class Quota(BaseModel):
    """What a tenant may use; None for no limit.

    Attributes:
        requests_per_minute: generations that may start.
        concurrent_jobs: generations at once.
        pixel_steps_per_minute: width x height x frames or layers x steps.
        artifact_bytes: results and uploads that are kept at once.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    requests_per_minute: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    concurrent_jobs: Annotated[int, Field(gt=0)] | None = None
    pixel_steps_per_minute: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    artifact_bytes: Annotated[int, Field(gt=0)] | None = None


class Tenant(BaseModel):
    """One who may ask.

    Attributes:
        name: also what the tenant's tensors are stored under.
        key_sha256: hexadecimal SHA-256 of each key, so that the file gives none away; more than one
            while keys are being replaced.
        quota: what the tenant may use.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    key_sha256: Annotated[
        tuple[Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")], ...],
        Field(min_length=1),
    ]
    quota: Quota = Quota()


ANYBODY: Final = Tenant(name="default", key_sha256=("0" * 64,))
"""Whose requests are where no keys are asked for."""


class AccessList(BaseModel):
    """The file of those who may ask."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tenants: Annotated[tuple[Tenant, ...], Field(min_length=1)]

    @classmethod
    def read(cls, path: Path) -> Self:
        """Reads the JSON file.

        Raises:
            ConfigurationError: it cannot be read, or two tenants share a name or a key.
        """
        try:
            access = cls.model_validate_json(path.read_bytes())
        except OSError as error:
            raise ConfigurationError(f"access_file: cannot read {path}: {error}") from error
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the file"
            # Without the value: it may be a key that somebody forgot to hash.
            raise ConfigurationError(f"access_file: {path}: {where}: {first['msg']}") from error
        for field, values in (
            ("names", [each.name for each in access.tenants]),
            ("keys", [key for each in access.tenants for key in each.key_sha256]),
        ):
            if len(set(values)) < len(values):
                raise ConfigurationError(f"access_file: {path}: two tenants share {field}")
        return access

    def tenant_of(self, metadata: Metadata) -> Tenant:
        """Whose key came with a call, as `authorization: Bearer <key>`.

        Takes as long for a wrong key as for a right one.

        Raises:
            Unauthenticated: no key came, or nobody's.
        """
        given = [value for name, value in metadata if name == _HEADER]
        if len(given) != 1 or not str(given[0]).lower().startswith(_SCHEME):
            raise Unauthenticated(
                "authorization: is missing; allowed is one, of the form Bearer KEY"
            )
        key = str(given[0])[len(_SCHEME) :].strip()
        digest = hashlib.sha256(key.encode()).hexdigest()
        found = None
        for tenant in self.tenants:
            for known in tenant.key_sha256:
                if hmac.compare_digest(known, digest):
                    found = tenant
        if found is None:
            raise Unauthenticated("authorization: the key is nobody's")
        return found


class Access:
    """The gateway's doorkeeper.

    Reads its file again whenever that was changed: who is no longer in it gets in no more.

    Args:
        path: the access file; None for anybody.

    Raises:
        ConfigurationError: see AccessList.read.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._seen = _Stamp.of(path)
        self._listed = None if path is None else AccessList.read(path)

    def admit(self, call: Call) -> str:
        """The guard of the gateway's server: the name of the tenant; raises as `tenant_of` does."""
        return self.tenant_of(call.metadata).name

    def tenant_of(self, metadata: Metadata) -> Tenant:
        """Who asks.

        Raises:
            Unauthenticated: see AccessList.
        """
        self._read_again()
        return ANYBODY if self._listed is None else self._listed.tenant_of(metadata)

    def named(self, name: str) -> Tenant:
        """The tenant of a name; one who is no longer listed has no quota any more.

        Whose job was taken in keeps it, whatever became of the key.
        """
        self._read_again()
        listed = () if self._listed is None else self._listed.tenants
        for tenant in listed:
            if tenant.name == name:
                return tenant
        return ANYBODY.model_copy(update={"name": name})

    def _read_again(self) -> None:
        if self._path is None or (now := _Stamp.of(self._path)) == self._seen:
            return
        self._seen = now
        try:
            self._listed = AccessList.read(self._path)
        except ConfigurationError as error:
            # Whoever changes it again will get it right; nobody is shut out, or let in, by a slip.
            _log.error("access file not read again", cause=str(error))
        else:
            _log.info("access file read again", tenants=len(self._listed.tenants))


class _Stamp(NamedTuple):
    """What changes with a file."""

    inode: int
    modified: int
    size: int

    @classmethod
    def of(cls, path: Path | None) -> Self | None:
        """None if there is no file."""
        try:
            status = None if path is None else path.stat()
        except OSError:
            return None
        return status and cls(status.st_ino, status.st_mtime_ns, status.st_size)
