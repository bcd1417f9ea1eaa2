"""What the gateway is told."""

from pathlib import Path
from typing import Annotated, Final, Self

from pydantic import ByteSize, Field, model_validator
from pydantic_settings import SettingsConfigDict

from services.domain.settings import MAX_SECONDS, Seconds, SecretSettings, ServerSettings
from services.domain.tls import TlsFiles
from services.jobs.opening import MEMORY
from services.jobs.retention import Retention

Targets = Annotated[tuple[str, ...], Field(min_length=1)]

_KEPT: Final = Retention()


class PipelineSettings(ServerSettings):
    """What stringing the stages together takes, wherever they run."""

    access_file: Path | None = Field(
        None,
        description="JSON file of tenants, the SHA-256 of their keys, and their quotas; without it,"
        " anybody may ask",
    )
    default_deadline_seconds: Seconds = Field(
        3600.0, description="deadline of requests that come without one"
    )
    max_deadline_seconds: Seconds = Field(
        24 * 3600.0, description="longest deadline a request may have; longer ones are cut to it"
    )
    start_patience_seconds: Annotated[float, Field(ge=0, le=MAX_SECONDS)] = Field(
        0.0,
        description="how long health waits at the start for every replica to hold its models;"
        " after that, and with 0, one of each stage is enough",
    )
    artifacts: str = Field(
        "memory:",
        description="where results and uploaded images are kept: memory:, file:///directory, or"
        " s3://bucket/prefix",
    )
    artifact_ttl_seconds: Seconds = Field(
        3600.0, description="how long a result can be downloaded again"
    )
    upload_ttl_seconds: Seconds = Field(600.0, description="how long an uploaded image is kept")
    upload_idle_seconds: Seconds = Field(
        30.0, description="how long an upload may pause before it is given up"
    )
    tenant_artifact_bytes: Annotated[ByteSize, Field(gt=0)] | None = Field(
        None,
        description="what a tenant may keep whose quota does not say; by default half of the"
        " store's quota_bytes, if it has one and there is an access file",
    )
    artifact_sweep_seconds: Seconds = Field(
        60.0, description="pause between sweeps for expired artifacts"
    )
    max_request_bytes: Annotated[ByteSize, Field(gt=0)] = Field(
        ByteSize(128 << 20),
        description="size of all requests at work together; more are refused. Pictures that were"
        " uploaded do not count",
    )
    picture_transit_bytes: Annotated[ByteSize, Field(gt=0)] = Field(
        ByteSize(128 << 20),
        description="size of all pictures that are on their way to a stage at once; others wait",
    )
    jobs: str = Field(
        "memory:",
        description="where jobs are kept: memory:, which ends with the process and which no other"
        " gateway sees, or redis://host:port of a server that keeps what it is told, which all"
        " gateways share",
    )
    job_lease_seconds: Seconds = Field(
        15.0, description="how long after a gateway's last word others take up its jobs"
    )
    max_running_jobs: Annotated[int, Field(gt=0)] = Field(
        64, description="jobs that one gateway works on at once; others wait in the ledger"
    )
    max_job_seconds: Seconds = Field(
        24 * 3600.0,
        description="longest a submitted job may take, from when it is accepted; its deadline if it"
        " comes without one, or with a later one",
    )
    job_ttl_seconds: Seconds = Field(
        _KEPT.ended_seconds,
        description="how long a job that has ended can be asked about; the same for all gateways"
        " that share a ledger, as are the three below",
    )
    job_tombstone_seconds: Seconds = Field(
        _KEPT.tombstone_seconds,
        description="how long after that its client_request_id still means it",
    )
    max_job_tombstones: Annotated[int, Field(gt=0)] = Field(
        _KEPT.max_tombstones,
        description="jobs that are remembered that way; beyond it the oldest are forgotten sooner",
    )
    max_job_bytes: Annotated[ByteSize, Field(gt=0)] = Field(
        ByteSize(_KEPT.max_bytes),
        description="size of all jobs in the ledger together; for new ones the oldest that have"
        " ended go sooner, and those that find no room all the same are refused",
    )
    job_sweep_seconds: Seconds = Field(
        60.0, description="pause between sweeps for jobs that are no longer kept"
    )
    poll_seconds: Seconds = Field(
        0.5, description="pause between looks at what the stages hold and how busy they are"
    )

    @model_validator(mode="after")
    def _check_artifacts(self) -> Self:
        if not self.jobs.startswith(MEMORY) and self.artifacts.startswith(MEMORY):
            raise ValueError(
                f"jobs in {self.jobs.partition(':')[0]} need artifacts that outlive this process:"
                " give --artifacts file:///directory or s3://bucket, for the jobs' input pictures"
                " and results"
            )
        return self

    @property
    def job_retention(self) -> Retention:
        """What the ledger keeps of jobs, and for how long."""
        return Retention(
            ended_seconds=self.job_ttl_seconds,
            tombstone_seconds=self.job_tombstone_seconds,
            max_tombstones=self.max_job_tombstones,
            max_bytes=self.max_job_bytes,
        )

    @property
    def keeps_strangers_out(self) -> bool:
        """See ServerSettings; an access file asks for a key."""
        return super().keeps_strangers_out or self.access_file is not None


class GatewaySettings(PipelineSettings, SecretSettings):
    """Flags, or TRIPTYCH_GATEWAY_* in the environment."""

    model_config = SettingsConfigDict(env_prefix="TRIPTYCH_GATEWAY_")

    encoder: Targets = Field(description="addresses of the encoders, host:port or unix:/path")
    denoiser: Targets = Field(description="addresses of the denoisers")
    vae: Targets = Field(description="addresses of the VAEs")
    encrypt_stages: bool = Field(False, description="whether the stages' servers are encrypted")
    stage_ca_file: Path | None = Field(
        None,
        description="PEM certificates that the stages' must be signed by; the system's if not"
        " given",
    )
    stage_cert_file: Path | None = Field(
        None, description="PEM certificate chain to show to the stages"
    )
    stage_key_file: Path | None = Field(None, description="PEM private key of stage_cert_file")

    @model_validator(mode="after")
    def _check_stage_tls(self) -> Self:
        if (self.stage_cert_file is None) is not (self.stage_key_file is None):
            raise ValueError("stage_cert_file and stage_key_file go together; one is missing")
        if not self.encrypt_stages and (self.stage_ca_file or self.stage_cert_file):
            raise ValueError("stage_ca_file and stage_cert_file need --encrypt-stages true")
        return self

    @property
    def stage_tls(self) -> TlsFiles | None:
        """What the gateway shows to the stages, and trusts; None for plain channels."""
        if not self.encrypt_stages:
            return None
        return TlsFiles(self.stage_cert_file, self.stage_key_file, self.stage_ca_file)
