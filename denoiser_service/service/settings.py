"""The denoiser service's settings."""

from typing import Annotated, Literal, Self

from pydantic import ByteSize, Field, model_validator
from pydantic_settings import SettingsConfigDict

from denoiser_service.service.policy import Order
from services.domain.settings import DenoisingSettings, Seconds, StageSettings
from services.model_files.directory import ModelDirectory
from triptych.domain.errors import ConfigurationError
from triptych.domain.model import Capabilities
from triptych.launcher.launcher import LauncherName


class DenoiserSettings(StageSettings, DenoisingSettings):
    """Flags, or TRIPTYCH_DENOISER_* in the environment."""

    model_config = SettingsConfigDict(env_prefix="TRIPTYCH_DENOISER_")

    order: Order = Field(Order.FIFO, description="how resident requests share the ranks")
    max_resident_requests: Annotated[int, Field(ge=1, le=64)] = Field(
        4, description="requests whose state the ranks hold at once"
    )
    max_resident_bytes: Annotated[ByteSize, Field(gt=0)] | None = Field(
        None,
        description="what each rank may keep of all of them between steps, for example 20GiB; no"
        " limit by default. One forward's own memory comes on top of it",
    )
    max_step_batch: Annotated[int, Field(ge=1, le=64)] = Field(
        1,
        description="requests of the same sizes that may take a step in one forward; more than 1"
        " gives pictures that differ by rounding from those that a request gives alone",
    )
    checkpoint_steps: Annotated[int, Field(ge=0, le=1000)] | Literal["auto"] = Field(
        0,
        description="after how many of its steps a request is saved in the tensor store, beside"
        " the next ones; when a rank dies, it goes on from there on other ranks, rather than"
        " failing. auto: so often that storing takes 1 % of the steps' time; 0 saves none",
    )
    trace_steps: bool = Field(
        False,
        description="each rank makes a span of every step, beside the events of the denoiser's own",
    )
    rank_start_seconds: Seconds = Field(
        900.0, description="how long a rank may take to load its model"
    )
    command_seconds: Seconds = Field(
        300.0, description="how long one step may take before its ranks count as hung"
    )
    silence_seconds: Seconds = Field(
        8.0, description="how long a rank may show no sign of life before it counts as hung"
    )
    launcher: LauncherName = Field(
        LauncherName.FORK,
        description="how ranks are started: fork, from a process that has imported what they need"
        " and stays for the next ones, or exec, each with an interpreter of its own",
    )
    rank_listen: str | None = Field(
        None,
        description="host:port at which ranks that torchrun or a LeaderWorkerSet started connect;"
        " none is started here then. By default the ranks are started here",
    )

    @model_validator(mode="after")
    def _check_batch(self) -> Self:
        if self.max_step_batch > self.max_resident_requests:
            raise ValueError(
                f"max_step_batch: is {self.max_step_batch}; allowed are at most"
                f" {self.max_resident_requests}, the requests that are resident at once"
            )
        return self

    def check_ranks(self, capabilities: Capabilities) -> None:
        """Checks that the model's steps can be shared as this says, before a rank is started.

        Raises:
            ConfigurationError: naming every degree that is not allowed, and those that are.
        """
        problems = [
            f"{violation.field}: {violation.description}"
            for violation in self.degrees.violations(capabilities.parallel_support)
        ]
        if self.degrees.ranks > 1 and self.max_step_batch > 1:
            problems.append(
                f"max_step_batch: is {self.max_step_batch}; several ranks take the step of one"
                " request at a time, allowed is 1"
            )
        kind, _, number = self.device.partition(":")
        if self.degrees.ranks > 1 and number:
            problems.append(f"device: is {self.device}; {kind} gives each rank a device of its own")
        if problems:
            raise ConfigurationError("; ".join(problems))

    def rank_flags(self, directory: ModelDirectory) -> list[str]:
        """The flags of every rank: the settings that concern the model and the store.

        Args:
            directory: the model; one from the hub is a directory by now, of the commit that every
                rank is to load.
        """
        flags = {
            "model": directory.path,
            "model-name": self.model_name or directory.name,
            "store": self.store,
            "cluster-secret-file": self.cluster_secret_file,
            "dtype": self.dtype,
            "device": self.device,
            "threads": self.threads,
            "compile-blocks": self.compile_blocks,
            "tensor-ttl-seconds": self.tensor_ttl_seconds,
            "sweep-seconds": self.sweep_seconds,
            "collective-seconds": self.command_seconds,
            "ulysses": self.ulysses,
            "ring": self.ring,
            "cfg": self.cfg,
            "log-level": self.log_level,
            "log-format": self.log_format,
        }
        if self.model_manifest is not None:
            flags["model-manifest"] = self.model_manifest
        if self.cache_profile is not None:
            flags["cache-profile"] = self.cache_profile
        if self.otlp_endpoint is not None:
            flags["otlp-endpoint"] = self.otlp_endpoint
        if self.attention_backend is not None:
            flags["attention-backend"] = self.attention_backend
        return [f"--{flag}={value}" for flag, value in flags.items()]
