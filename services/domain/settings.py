"""Configuration: read once per process, from flags and environment, into a frozen model."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, get_args, get_origin

from pydantic import (
    ByteSize,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from services.domain.model_source import HubModel, ModelSource, taken
from services.domain.tiling import Tiling
from services.domain.tls import TlsFiles
from triptych.domain.element_type import ElementType
from triptych.domain.errors import ConfigurationError
from triptych.domain.parallel import ParallelDegrees

MIN_SECRET_BYTES = 32
MAX_DEGREE = 64
MAX_PORT = 65535
MAX_SECONDS = 365 * 24 * 3600.0
"""Longer is a mistake, and what is infinite cannot be counted down."""

Seconds = Annotated[float, Field(gt=0, le=MAX_SECONDS)]

S = TypeVar("S", bound="ProcessSettings")


class ProcessSettings(BaseSettings):
    """What every process is told.

    A flag `--drain-seconds 5` wins over the environment's `<PREFIX>DRAIN_SECONDS=5`.
    """

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", cli_kebab_case=True, cli_avoid_json=True
    )

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "console"] = "json"
    exit_with_parent: Annotated[int, Field(ge=0)] = Field(
        0, description="process id of the parent to end with, however it ends; 0 for none"
    )

    @classmethod
    def read(cls, arguments: Sequence[str]) -> Self:
        """Reads flags and environment; says what is wrong and exits with 2 if they are unusable."""
        try:
            _refuse_unknown_environment(cls)
            program = f"python -m {cls.__module__.removesuffix('.settings')}"
            paths, flags = _apart(arguments, cls)
            return cls(_cli_parse_args=flags, _cli_prog_name=program, **paths)
        except ValidationError as error:
            problems = [f"{_path(each['loc'])}: {each['msg']}" for each in error.errors()]
        except (SettingsError, ConfigurationError) as error:
            problems = [str(error)]
        sys.stderr.write("".join(f"settings: {problem}\n" for problem in problems))
        sys.exit(2)


Endpoint = Annotated[str, Field(pattern="^https?://")]
"""URL of a collector."""


class ServerSettings(ProcessSettings):
    """What every process that serves gRPC is told."""

    listen: str = Field(description="gRPC address to serve, host:port or unix:/path")
    reflection: bool | None = Field(
        None,
        description="serve gRPC reflection; by default where nothing keeps strangers out, and not"
        " with certificates or an access file",
    )
    metrics_listen: str | None = Field(
        None, description="HTTP address to serve metrics for Prometheus, host:port; off by default"
    )
    otlp_endpoint: Endpoint | None = Field(
        None,
        description="collector to push metrics and traces to, for example http://127.0.0.1:4317"
        " (OTLP over gRPC)",
    )
    trace_ratio: Annotated[float, Field(ge=0, le=1)] = Field(
        1.0,
        description="share of requests whose trace is pushed; a caller's traceparent decides"
        " for itself",
    )
    drain_seconds: Annotated[float, Field(ge=0, le=3600)] = Field(
        30.0, description="how long running requests may take to finish after SIGTERM"
    )
    max_concurrent_calls: Annotated[int, Field(ge=1)] = Field(
        1024,
        description="calls at once before others are refused; health, capacity and administrative"
        " calls are always answered",
    )
    tls_cert_file: Path | None = Field(
        None, description="PEM certificate chain to show; encrypts what is served"
    )
    tls_key_file: Path | None = Field(None, description="PEM private key of tls_cert_file")
    tls_client_ca_file: Path | None = Field(
        None, description="PEM certificates that clients' must be signed by; asks them for one"
    )

    @model_validator(mode="after")
    def _check_tls(self) -> Self:
        if (self.tls_cert_file is None) is not (self.tls_key_file is None):
            raise ValueError("tls_cert_file and tls_key_file go together; one is missing")
        if self.tls_client_ca_file is not None and self.tls_cert_file is None:
            raise ValueError("tls_client_ca_file needs tls_cert_file and tls_key_file")
        return self

    @property
    def reflects(self) -> bool:
        """Whether the server tells what it serves: if told to, or if anybody may call it."""
        return not self.keeps_strangers_out if self.reflection is None else self.reflection

    @property
    def keeps_strangers_out(self) -> bool:
        """Whether callers are asked who they are, or at least cannot be listened to."""
        return self.tls is not None

    @property
    def tls(self) -> TlsFiles | None:
        """What the server shows and trusts; None for a plain one."""
        if self.tls_cert_file is None:
            return None
        return TlsFiles(self.tls_cert_file, self.tls_key_file, self.tls_client_ca_file)


class SecretSettings(ProcessSettings):
    """What every process of a cluster whose members trust one another is told."""

    cluster_secret_file: Path = Field(
        description="file with the secret that signs tensor references and administrative calls;"
        " the same for the gateway and all stages"
    )

    def cluster_secret(self) -> SecretStr:
        """Reads the secret.

        Raises:
            ConfigurationError: the file cannot be read, or is too short to be a secret.
        """
        path = self.cluster_secret_file
        try:
            secret = path.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"cluster_secret_file: cannot read {path}: {error}") from error
        if len(secret) < MIN_SECRET_BYTES:
            raise ConfigurationError(
                f"cluster_secret_file: {path} holds {len(secret)} characters;"
                f" at least {MIN_SECRET_BYTES} are needed"
            )
        return SecretStr(secret)


class ComputeSettings(SecretSettings):
    """What every process that holds a model and shares a tensor store is told."""

    # Before the model, which takes it along.
    offline: bool = Field(
        False, description="never ask the hub; a model from there must be in its cache"
    )
    model: ModelSource = Field(
        description="model directory in the published diffusers layout, or a repository of the"
        " hub that holds one, as org/name or org/name@revision"
    )
    model_manifest: Path | None = Field(
        None,
        description="file with the SHA-256 of the model's files, as sha256sum and triptych manifest"
        " write it; other files are refused",
    )
    model_name: str | None = Field(
        None, description="name that requests use; the model's own by default"
    )
    store: str = Field(
        description="tensor store, for example shm:///dev/shm/triptych or redis://host:6379"
    )
    dtype: ElementType = Field(ElementType.FLOAT32, description="type the weights compute in")
    device: str = Field("cpu", description="torch device, for example cpu or cuda:0")
    threads: Annotated[int, Field(ge=1, le=1024)] = Field(1, description="torch threads")
    tensor_ttl_seconds: Seconds = Field(
        300.0,
        description="life of stored tensors that nobody released; until the request's deadline if"
        " that is later",
    )
    sweep_seconds: Seconds = Field(
        10.0, description="pause between sweeps for expired and orphaned tensors"
    )

    @field_validator("model")
    @classmethod
    def _take_offline(cls, model: ModelSource, told: ValidationInfo) -> Path | HubModel:
        return taken(model, offline=told.data.get("offline", False))


class DenoisingSettings(ComputeSettings):
    """What every process that denoises for one model is told."""

    cache_profile: Path | None = Field(
        None,
        description="file with TeaCache coefficients and a default cache, made for this model;"
        " cache_profile.json in the model's directory, if it is there, by default",
    )
    ulysses: Annotated[int, Field(ge=1, le=MAX_DEGREE)] = Field(
        1, description="parts of the sequence that ranks exchange for attention heads"
    )
    ring: Annotated[int, Field(ge=1, le=MAX_DEGREE)] = Field(
        1, description="parts of the sequence whose keys and values go round the ranks"
    )
    cfg: Annotated[int, Field(ge=1, le=MAX_DEGREE)] = Field(
        1, description="guidance branches that different ranks run at the same time"
    )
    attention_backend: str | None = Field(
        None, description="diffusers attention backend, for example flash; its default by default"
    )
    compile_blocks: bool = Field(
        False, description="compile the transformer's blocks when they are first called"
    )

    @field_validator("attention_backend")
    @classmethod
    def _one_attention(cls, backend: str | None, told: ValidationInfo) -> str | None:
        if backend is not None and _several(told):
            raise ValueError(
                f"is {backend!r}; ranks that share a sequence have an attention of their own"
            )
        return backend

    @field_validator("compile_blocks")
    @classmethod
    def _not_compiled(cls, compiled: bool, told: ValidationInfo) -> bool:
        if compiled and _several(told):
            raise ValueError("is true; the blocks of a model on several ranks are not compiled")
        return compiled

    @property
    def degrees(self) -> ParallelDegrees:
        """How many ranks there are, and how they share steps."""
        return ParallelDegrees(ulysses=self.ulysses, ring=self.ring, cfg=self.cfg)


def _several(told: ValidationInfo) -> bool:
    """Whether there are several ranks; those for branches share a sequence where there is one."""
    return any(told.data.get(name, 1) > 1 for name in ("ulysses", "ring", "cfg"))


class DecodingSettings(ProcessSettings):
    """What every process that decodes is told."""

    # Before what needs it.
    tiling: bool = Field(
        False,
        description="encode and decode pictures larger than a tile in tiles that are blended; takes"
        " less memory, and gives other pixels",
    )
    tile_size: Annotated[int, Field(ge=64, le=8192)] | None = Field(
        None, description="side of a tile in pixels; the VAE's own by default"
    )
    tile_overlap: Annotated[float, Field(gt=0, le=0.5, multiple_of=0.125)] | None = Field(
        None, description="share of a tile that the next one overlaps; 0.25 by default"
    )
    slicing: bool = Field(
        False,
        description="decode the layers of a picture one by one; takes less memory, and gives pixels"
        " that differ by rounding",
    )

    @field_validator("tile_size", "tile_overlap")
    @classmethod
    def _with_tiling(cls, told: float | None, others: ValidationInfo) -> float | None:
        if told is not None and not others.data.get("tiling", True):
            raise ValueError(f"is {told:g}; it needs tiling, which is off")
        return told

    @property
    def tiles(self) -> Tiling | None:
        """None to work on pictures whole."""
        return Tiling(self.tile_size, self.tile_overlap) if self.tiling else None


class EncodingSettings(ProcessSettings):
    """What every process that encodes prompts or pictures is told."""

    conditioning_cache_bytes: Annotated[ByteSize, Field(ge=0)] = Field(
        ByteSize(256 << 20),
        description="what all who share the tensor store remember of encoded prompts and pictures,"
        " for example 1GiB; 0 to remember nothing",
    )
    conditioning_cache_idle_seconds: Seconds = Field(
        3600.0, description="how long they are remembered after they were last asked for"
    )
    command_seconds: Seconds = Field(
        900.0,
        description="how long one encode or decode may take before the process counts as hung, and"
        " ends",
    )


class StageSettings(ServerSettings, ComputeSettings):
    """What every stage's service is told."""

    max_queued_requests: Annotated[int, Field(ge=1)] = Field(
        64, description="requests that may wait before others are refused"
    )


def split_address(field: str, address: str) -> tuple[str, int]:
    """Host and port of a setting `host:port`.

    Raises:
        ConfigurationError: it is not one.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > MAX_PORT:
        raise ConfigurationError(f"{field}: is {address!r}; allowed is host:port")
    return host.strip("[]"), int(port)


def environment_with(**variables: str) -> dict[str, str]:
    """This process's environment with these added: what a child process is started with."""
    return {**os.environ, **variables}


def _refuse_unknown_environment(settings: type[ProcessSettings]) -> None:
    prefix = settings.model_config.get("env_prefix", "")
    known = {f"{prefix}{name}".upper() for name in settings.model_fields}
    given = {name.upper() for name in os.environ if name.upper().startswith(prefix.upper())}
    if unknown := sorted(given - known):
        raise ConfigurationError(f"unknown environment variables: {', '.join(unknown)}")


def _path(location: tuple[int | str, ...]) -> str:
    return ".".join(map(str, location)) or "settings"


def _apart(
    arguments: Sequence[str], settings: type[BaseSettings]
) -> tuple[dict[str, Any], list[str]]:
    """Values of the lists of paths, by field, and the other flags.

    The parser would divide a list's value at its commas, and a path may have commas in it.
    """
    lists = {
        f"--{name.replace('_', '-')}": name
        for name, field in settings.model_fields.items()
        if get_origin(field.annotation) is tuple and get_args(field.annotation)[0] is not str
    }
    paths: dict[str, Any] = {}
    others: list[str] = []
    left = iter(arguments)
    for argument in left:
        flag, equals, value = argument.partition("=")
        if flag in lists and (given := value if equals else next(left, None)) is not None:
            paths[lists[flag]] = (*paths.get(lists[flag], ()), given)
        else:
            others.append(argument)
    return paths, others
