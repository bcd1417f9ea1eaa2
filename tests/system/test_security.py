"""A cluster that nobody gets into: encrypted between its processes, with keys at its door."""

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import grpc
import psutil
import pytest
import trustme
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.processes import Process, run, start
from tests.system.otlp_receiver import Receiver, receiving
from tests.system.running_cluster import MODEL, until
from tests.valkey_server import KeyValueServer, key_value_server
from triptych import (
    Client,
    InvalidRequestError,
    UnauthenticatedError,
    UnavailableError,
    tls_credentials,
)
from triptych.cluster.address import Address

pytestmark = pytest.mark.timeout(200)


@dataclass
class Certificates:
    """What one authority signed, as files."""

    directory: Path

    def __post_init__(self) -> None:
        authority = trustme.CA()
        authority.cert_pem.write_to_path(self.ca)
        issued = authority.issue_cert("localhost", "127.0.0.1")
        issued.private_key_pem.write_to_path(self.key)
        for pem in issued.cert_chain_pems:
            pem.write_to_path(self.cert)

    @property
    def ca(self) -> Path:
        return self.directory / "ca.pem"

    @property
    def cert(self) -> Path:
        return self.directory / "cert.pem"

    @property
    def key(self) -> Path:
        return self.directory / "key.pem"

    def server_flags(self) -> tuple[str, ...]:
        return ("--tls-cert-file", str(self.cert), "--tls-key-file", str(self.key))

    def credentials(self, *, shown: bool) -> grpc.ChannelCredentials:
        return tls_credentials(
            ca_file=self.ca,
            cert_file=self.cert if shown else None,
            key_file=self.key if shown else None,
        )


@dataclass
class SecureCluster:
    certificates: Certificates
    strangers: Certificates
    targets: dict[str, str]
    api_key: str
    secret: str
    store_password: str
    processes: dict[str, Process]
    logs: Path
    collector: Receiver

    def client(self, api_key: str | None) -> Client:
        credentials = self.certificates.credentials(shown=False)
        return Client(self.targets["gateway"], credentials=credentials, api_key=api_key, timeout=60)


def serving(target: str, credentials: grpc.ChannelCredentials) -> bool:
    with grpc.secure_channel(target, credentials) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=5
            )
        except grpc.RpcError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def new_key(tenant: str) -> tuple[str, dict[str, object]]:
    made = run("triptych", "new-key", tenant)
    assert made.returncode == 0, made.stderr
    return made.stderr.strip(), json.loads(made.stdout)


@pytest.fixture(scope="module")
def store() -> Iterator[KeyValueServer]:
    with key_value_server() as server:
        yield server


@pytest.fixture(scope="module")
def cluster(
    tmp_path_factory: pytest.TempPathFactory, store: KeyValueServer
) -> Iterator[SecureCluster]:
    directory = tmp_path_factory.mktemp("secure")
    (directory / "strangers").mkdir()
    ours, strangers = Certificates(directory), Certificates(directory / "strangers")
    secret, access = directory / "secret", directory / "access.json"
    secret.write_text(secrets.token_hex(32))
    key, listed = new_key("alice")
    access.write_text(json.dumps(listed))
    targets = {
        each: str(Address("localhost", 0).free())
        for each in ("encoder", "denoiser", "vae", "gateway")
    }
    password_file, password = directory / "password", secrets.token_hex(32)
    password_file.write_text(password)
    allowed = ("on", f">{password}", "~*", "&*", "+@all")
    store.client().execute_command("ACL", "SETUSER", "stage", *allowed)
    stage_flags = (
        *("--model", str(MODEL)),
        *("--store", f"{store.url}?username=stage&password_file={password_file}"),
        *("--cluster-secret-file", str(secret), "--tls-client-ca-file", str(ours.ca)),
    )
    gateway_flags = (
        *("--cluster-secret-file", str(secret)),
        *(part for each in ("encoder", "denoiser", "vae") for part in (f"--{each}", targets[each])),
        *("--encrypt-stages", "true", "--stage-ca-file", str(ours.ca)),
        *("--stage-cert-file", str(ours.cert), "--stage-key-file", str(ours.key)),
        *("--access-file", str(access)),
    )
    processes = {}
    with receiving() as collector, ExitStack() as exits:
        for name, target in targets.items():
            module = "services.gateway" if name == "gateway" else f"{name}_service"
            log = exits.enter_context((directory / f"{name}.log").open("wb"))
            process = start(
                *(module, "--listen", target, *ours.server_flags()),
                *("--exit-with-parent", str(os.getpid()), "--drain-seconds", "0"),
                *("--log-level", "debug", "--otlp-endpoint", collector.endpoint),
                *(gateway_flags if name == "gateway" else stage_flags),
                stderr=log.fileno(),
                children=["denoiser_service.rank"] if name == "denoiser" else (),
            )
            processes[name] = process
            exits.callback(process.wait)
            exits.callback(process.terminate)
        door = ours.credentials(shown=False)
        assert until(lambda: serving(targets["gateway"], door), 120)
        yield SecureCluster(
            *(ours, strangers, targets, key, secret.read_text(), password),
            *(processes, directory, collector),
        )


def test_whoever_has_a_key_draws(cluster: SecureCluster, tmp_path: Path) -> None:
    with cluster.client(cluster.api_key) as client:
        assert client.generate("a red circle", steps=2, seed=7).data.startswith(b"\x89PNG")
    (tmp_path / "key").write_text(f"{cluster.api_key}\n")
    connection = ("--api-key-file", tmp_path / "key", "--ca-file", cluster.certificates.ca)
    for command in (
        ("generate", "a red circle", "--steps", "2", "-o", tmp_path / "circle.png"),
        ("models",),
    ):
        ran = run("triptych", *command, "--target", cluster.targets["gateway"], *connection)
        assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "circle.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("api_key", [None, "nobody's key"])
def test_without_a_key_nothing_is_told(cluster: SecureCluster, api_key: str | None) -> None:
    with cluster.client(api_key) as client:
        for ask in (client.models, lambda: client.generate("a red circle")):
            with pytest.raises(UnauthenticatedError, match="authorization"):
                ask()


def test_a_plain_connection_finds_nobody(cluster: SecureCluster) -> None:
    with (
        Client(cluster.targets["gateway"], api_key=cluster.api_key, timeout=10) as client,
        pytest.raises(UnavailableError),
    ):
        client.models()


def test_an_authority_of_somebody_else_is_not_believed(cluster: SecureCluster) -> None:
    credentials = cluster.strangers.credentials(shown=False)
    with (
        Client(cluster.targets["gateway"], credentials=credentials, timeout=10) as client,
        pytest.raises(UnavailableError),
    ):
        client.models()


@pytest.mark.parametrize("stage", ["encoder", "denoiser", "vae"])
def test_a_stage_talks_to_those_alone_whose_certificate_it_knows(
    cluster: SecureCluster, stage: str
) -> None:
    target = cluster.targets[stage]
    assert serving(target, cluster.certificates.credentials(shown=True))
    assert not serving(target, cluster.certificates.credentials(shown=False))
    impostor = tls_credentials(
        ca_file=cluster.certificates.ca,
        cert_file=cluster.strangers.cert,
        key_file=cluster.strangers.key,
    )
    assert not serving(target, impostor)


def test_no_log_trace_command_line_or_environment_tells_a_secret_or_a_prompt(
    cluster: SecureCluster,
) -> None:
    prompt, wrong = "a heart for Zerlina", "the key of nobody at all"
    with cluster.client(cluster.api_key) as client:
        client.generate(prompt, steps=2, seed=7)
        with pytest.raises(InvalidRequestError):
            client.generate(f"{prompt}\0")
    with cluster.client(wrong) as client, pytest.raises(UnauthenticatedError):
        client.models()
    expected = {f"triptych-{name}" for name in cluster.processes}
    cluster.collector.wait_for(lambda spans: expected <= {each.service for each in spans})
    private = cluster.certificates.key.read_text().splitlines()[1]
    kept = (cluster.api_key, cluster.secret, cluster.store_password, private)
    hidden = [each.encode() for each in (*kept, prompt, wrong)]
    told = {"traces": cluster.collector.raw}
    for name, process in cluster.processes.items():
        started = psutil.Process(process.pid)
        for each in (started, *started.children(recursive=True)):
            told[f"command line of {name}, {each.pid}"] = "\0".join(each.cmdline()).encode()
            told[f"environment of {name}, {each.pid}"] = str(each.environ()).encode()
        told[f"log of {name}"] = (cluster.logs / f"{name}.log").read_bytes()
        assert b'"level": "debug"' in told[f"log of {name}"], "nothing would be seen"
    assert [(where, each) for where, text in told.items() for each in hidden if each in text] == []


@pytest.mark.parametrize("stage", ["encoder", "denoiser", "vae"])
def test_a_password_inside_a_stores_url_is_refused_and_not_repeated(
    stage: str, tmp_path: Path
) -> None:
    def said(code: int, *flags: str) -> str:
        given = {f"TRIPTYCH_{stage.upper()}_STORE": "redis://stage:hunter2@127.0.0.1"}
        ended = run(f"{stage}_service", *flags, environment=given)
        assert ended.returncode == code, ended.stderr
        assert "hunter2" not in ended.stdout + ended.stderr
        return ended.stderr

    secret = tmp_path / "secret"
    secret.write_text(secrets.token_hex(32))
    place = ("--listen", f"unix:{tmp_path}/socket", "--cluster-secret-file", str(secret))
    assert "store: 'redis://***@127.0.0.1'; allowed is" in said(2, "--model", str(MODEL), *place)
    said(0, "--help")


def test_a_replaced_certificate_counts_from_the_next_connection(cluster: SecureCluster) -> None:
    certificates = cluster.certificates
    before = certificates.ca.read_bytes()
    Certificates(certificates.directory)
    assert certificates.ca.read_bytes() != before
    assert until(
        lambda: serving(cluster.targets["gateway"], certificates.credentials(shown=False)), 20
    )
