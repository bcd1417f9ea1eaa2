import subprocess
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest
import torch
import trustme
from pydantic import SecretStr

from services.domain.store_control import Bound, Fullness
from services.domain.tensor_ref import Seal
from services.tensor_store.opening import open_blob_store
from services.tensor_store.redis_server import CHUNK_BYTES
from services.tensor_store.tensor_store import TensorStore, open_store
from tests.system.running_cluster import until
from tests.valkey_server import BINARIES, DEBIANS, KeyValueServer, key_value_server
from triptych.domain.errors import (
    ConfigurationError,
    StoreFull,
    TensorNotFound,
    TensorRefused,
    Unavailable,
)

TENANT, REQUEST = "tenant", "a" * 32
SCOPE = {"tenant": TENANT, "request_id": REQUEST}
# As docs/operations.md has it.
RIGHTS = (
    "resetchannels ~triptych:* -@all +hset +hget +hgetall +hkeys +hdel +del +exists +pexpire"
    " +scan +info +ping +multi +exec +eval +get +set +hlen +hexists"
    " +zadd +zcard +zpopmin +zrange +zrem +zscore"
)


@pytest.fixture
def server() -> Iterator[KeyValueServer]:
    with key_value_server() as server:
        yield server


def opened(server: KeyValueServer, options: str = "") -> TensorStore:
    return open_store(
        f"{server.url}{options}", seal=Seal(SecretStr("s" * 32)), ttl_seconds=60, inline_bytes=0
    )


def got(store: TensorStore, ref: object) -> torch.Tensor:
    with store.get(ref, **SCOPE) as tensors:  # type: ignore[arg-type]
        return tensors["x"].clone()


def test_the_latents_of_a_long_video_pass(server: KeyValueServer) -> None:
    latents = torch.arange(75 << 20, dtype=torch.int32)
    with closing(opened(server)) as store, closing(opened(server)) as reader:
        ref = store.put({"x": latents}, **SCOPE)
        assert ref.size_bytes > 300 << 20
        (blob,) = server.client().keys("*:blob:*")
        assert server.client().hlen(blob) == -(-ref.size_bytes // CHUNK_BYTES)
        with reader.get(ref, **SCOPE) as tensors:
            assert torch.equal(tensors["x"], latents)


def test_nothing_is_kept_without_an_end(server: KeyValueServer) -> None:
    client = server.client()
    with closing(opened(server)) as store:
        store.put({"x": torch.ones(3 << 20)}, **SCOPE)
        assert len(client.keys("*")) == 2
        assert all(0 < client.pttl(key) <= 61_000 for key in client.keys("*"))
        ref = store.put({"x": torch.ones(3)}, **SCOPE)
        client.delete(f"triptych:blob:{TENANT}:{REQUEST}:{ref.owner}:{ref.key}")
        assert store.stats().stored_count == 1
        with pytest.raises(TensorNotFound, match="released, expired"):
            got(store, ref)


def test_what_a_process_stored_can_be_read_after_it_has_ended(server: KeyValueServer) -> None:
    with closing(opened(server)) as reader:
        with closing(opened(server)) as store:
            ref = store.put({"x": torch.ones(3)}, **SCOPE)
        assert torch.equal(got(reader, ref), torch.ones(3))
        assert reader.release_request(TENANT, REQUEST) == 1
        assert server.client().keys("*") == []


def seen_of(store: TensorStore) -> Sequence[Fullness]:
    """How full its server is, once it has looked."""
    assert until(lambda: bool(store.fullness()))
    return store.fullness()


def test_how_full_a_server_is_is_known_while_it_is_reached(server: KeyValueServer) -> None:
    with closing(opened(server)) as store:
        (without_limit,) = seen_of(store)
        assert without_limit.limit_bytes is None
        server.kill()
        assert until(lambda: store.fullness() == ())


def test_a_server_that_is_full_refuses_and_serves_again_after_a_release(
    server: KeyValueServer,
) -> None:
    client, large = server.client(), torch.ones(8 << 20)
    used = int(client.info("memory")["used_memory"])
    client.config_set("maxmemory", used + (48 << 20))
    with closing(opened(server)) as store:
        assert store.stats().quota_bytes == used + (48 << 20)
        kept = store.put({"x": large}, **SCOPE)
        with pytest.raises(StoreFull, match="has reached its maxmemory"):
            store.put({"x": large}, **SCOPE)
        assert store.stats().stored_count == 1
        assert len(client.keys("*:blob:*")) == 1
        assert until(lambda: seen_of(store)[0].used_bytes > used + (32 << 20))
        (full,) = store.fullness()
        assert (full.bound, full.limit_bytes) == (Bound.SERVER, used + (48 << 20))
        assert torch.equal(got(store, kept), large)
        store.release(kept)
        store.put({"x": large}, **SCOPE)


@pytest.mark.parametrize("kind", BINARIES)
def test_a_server_without_any_room_still_releases(kind: str) -> None:
    with key_value_server(binary=BINARIES[kind]) as server, closing(opened(server)) as store:
        one, _ = (store.put({"x": torch.ones(1 << 20)}, **SCOPE) for _ in range(2))
        server.client().config_set("maxmemory", 1 << 20)
        with pytest.raises(StoreFull, match="has reached its maxmemory"):
            store.put({"x": torch.ones(3)}, **SCOPE)
        assert store.release(one)
        assert store.release_request(TENANT, REQUEST) == 1
        assert server.client().keys("*") == []


def test_a_restarted_server_has_lost_its_tensors_and_takes_new_ones(server: KeyValueServer) -> None:
    with closing(opened(server)) as store, closing(opened(server)) as reader:
        lost, other = (store.put({"x": torch.ones(3)}, **SCOPE) for _ in range(2))
        before = store.identity
        server.kill()
        server.start()
        with pytest.raises(Unavailable, match="was restarted and has lost its tensors"):
            got(reader, lost)
        # By now it knows; another reference of the same run is told the same.
        with pytest.raises(Unavailable, match="was restarted and has lost its tensors"):
            got(reader, other)
        # The writer meets the new run while it stores.
        with pytest.raises(Unavailable, match="repeat the request"):
            store.put({"x": torch.ones(3)}, **SCOPE)
        assert torch.equal(got(reader, store.put({"x": torch.ones(3)}, **SCOPE)), torch.ones(3))
        assert store.identity == reader.identity != before


def test_a_restart_is_noticed_without_any_use(server: KeyValueServer) -> None:
    with closing(opened(server)) as store:
        before = store.identity
        server.kill()
        server.start()
        assert until(lambda: store.identity != before)


def test_a_server_that_is_gone_is_unavailable(server: KeyValueServer) -> None:
    with closing(opened(server)) as store:
        ref = store.put({"x": torch.ones(3)}, **SCOPE)
        server.kill()
        for use in (
            lambda: store.put({"x": torch.ones(3)}, **SCOPE),
            lambda: got(store, ref),
            lambda: store.release(ref),
            lambda: store.release_request(TENANT, REQUEST),
        ):
            with pytest.raises(Unavailable, match=r"the server at redis\+unix:///"):
                use()


def test_databases_and_prefixes_are_stores_of_their_own(server: KeyValueServer) -> None:
    with (
        closing(opened(server)) as store,
        closing(opened(server)) as same,
        closing(opened(server, "?db=1")) as other_database,
        closing(opened(server, "?key_prefix=staging")) as other_prefix,
    ):
        assert store.identity == same.identity
        assert len({each.identity for each in (store, other_database, other_prefix)}) == 3
        ref = other_prefix.put({"x": torch.ones(3)}, **SCOPE)
        with pytest.raises(TensorRefused, match="its store is"):
            got(store, ref)
        assert store.release_request(TENANT, REQUEST) == 0
        assert store.stats().stored_count == 0


def test_a_user_with_the_documented_rights_can_do_all_of_it_and_nothing_else(
    server: KeyValueServer, tmp_path: Path
) -> None:
    client, password = server.client(), tmp_path / "password"
    client.execute_command("ACL", "SETUSER", "stage", "on", ">secret", *RIGHTS.split())
    password.write_text("secret\n")
    options = f"?username=stage&password_file={password}"
    with closing(opened(server, options)) as store:
        ref = store.put({"x": torch.ones(3)}, **SCOPE)
        assert torch.equal(got(store, ref), torch.ones(3))
        assert store.stats().stored_count == 1
        assert store.release(ref)
        store.put({"x": torch.ones(3)}, **SCOPE)
        assert store.release_request(TENANT, REQUEST) == 1
    assert client.keys("*") == []
    with pytest.raises(ConfigurationError, match=r"cannot be used|refuses"):
        opened(server, f"{options}&key_prefix=others").put({"x": torch.ones(3)}, **SCOPE)


def test_a_wrong_password_is_refused_at_the_start_without_showing_it(
    server: KeyValueServer, tmp_path: Path
) -> None:
    (tmp_path / "password").write_text("hunter2")
    with pytest.raises(ConfigurationError, match="refuses the user stage") as refusal:
        opened(server, f"?username=stage&password_file={tmp_path / 'password'}")
    assert "hunter2" not in str(refusal.value)


def test_a_server_that_evicts_is_refused(server: KeyValueServer) -> None:
    server.client().config_set("maxmemory", 1 << 30)
    server.client().config_set("maxmemory-policy", "allkeys-lru")
    with pytest.raises(ConfigurationError, match="allkeys-lru; allowed is noeviction"):
        opened(server)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("redis://", "allowed is redis://host:port"),
        ("redis://user:secret@localhost", "options username, password_file"),
        ("redis://localhost:port", "allowed is redis://host:port"),
        ("redis://localhost/1", "allowed is redis://host:port"),
        ("redis+unix://relative", "names no absolute path"),
        ("redis://localhost?db=-1", "db=-1: .*options are verify, db, key_prefix"),
        ("redis://localhost?quota_bytes=5", "quota_bytes=5"),
        ("redis://localhost?key_prefix=a:b", "key_prefix=a:b"),
        ("redis://localhost?ca_file=/x", "which only rediss:// has"),
        ("rediss://localhost?ca_file=/x", "there is no file /x"),
        ("redis://localhost?password_file=/x", "cannot read password_file /x"),
        ("redis://127.0.0.1:1?connect_attempts=1", "redis://127.0.0.1:1 cannot be used"),
        ("redis+unix:///nowhere/server.sock?connect_attempts=2", "cannot be used"),
    ],
)
def test_a_bad_url_is_refused_with_what_is_allowed(url: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        open_blob_store(url)


@pytest.mark.skipif(DEBIANS is None, reason="the embedded server has no TLS; needs redis-server")
def test_tensors_pass_encrypted_between_those_who_know_one_another(tmp_path: Path) -> None:
    assert DEBIANS is not None
    authority, stranger = trustme.CA(), trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    stranger.cert_pem.write_to_path(tmp_path / "stranger.pem")
    for name, issued in (
        ("server", authority.issue_cert("localhost")),
        ("client", authority.issue_cert("stage")),
    ):
        issued.private_key_pem.write_to_path(tmp_path / f"{name}.key")
        issued.cert_chain_pems[0].write_to_path(tmp_path / f"{name}.pem")
    files = {each: str(tmp_path / each) for each in ("ca.pem", "server.pem", "server.key")}
    encryption = (
        *("--tls-port", "0", "--tls-ca-cert-file", files["ca.pem"]),
        *("--tls-cert-file", files["server.pem"], "--tls-key-file", files["server.key"]),
    )
    with key_value_server(*encryption, binary=DEBIANS) as server:
        client = server.client()
        port = free_port()
        client.config_set("tls-port", port)
        ours = f"cert_file={tmp_path}/client.pem&key_file={tmp_path}/client.key"
        url = f"rediss://localhost:{port}?connect_attempts=1"
        seal = Seal(SecretStr("s" * 32))
        with closing(
            open_store(f"{url}&ca_file={tmp_path}/ca.pem&{ours}", seal=seal, ttl_seconds=60)
        ) as store:
            ref = store.put({"x": torch.ones(3)}, **SCOPE)
            assert torch.equal(got(store, ref), torch.ones(3))
        for refused in (f"ca_file={tmp_path}/stranger.pem&{ours}", f"ca_file={tmp_path}/ca.pem"):
            with pytest.raises(ConfigurationError, match="cannot be used"):
                open_blob_store(f"{url}&{refused}")


def free_port() -> int:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port


@pytest.mark.skipif(DEBIANS is None, reason="needs redis-server")
def test_redis_itself_keeps_tensors_too() -> None:
    assert DEBIANS is not None
    shown = subprocess.run([DEBIANS, "--version"], capture_output=True, text=True, check=True)
    assert "Redis server" in shown.stdout
    with key_value_server(binary=DEBIANS) as server, closing(opened(server)) as store:
        tensor = torch.rand(3 << 20)
        assert torch.equal(got(store, store.put({"x": tensor}, **SCOPE)), tensor)
        assert store.release_request(TENANT, REQUEST) == 1
        assert server.client().keys("*") == []
