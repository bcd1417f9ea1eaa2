from pathlib import Path

import pytest
from obstore.store import S3Store

from services.artifacts.artifact import ArtifactKey, ArtifactKind
from services.artifacts.artifact_store import ArtifactStore
from services.artifacts.opening import open_artifact_store
from services.artifacts.s3 import S3Place
from tests.s3_server import new_prefix, shared_s3_server
from triptych.domain.errors import ConfigurationError, ResourceExhausted, Unavailable

KEY = ArtifactKey("tenant", ArtifactKind.RESULT, "a")


def _put(store: ArtifactStore, data: bytes) -> None:
    with store.begin(KEY, ttl_seconds=60) as writer:
        writer.write(data)
        writer.commit("image/png")


def test_memory_is_bounded_unless_told_otherwise_by_half_a_gibibyte() -> None:
    _put(open_artifact_store("memory:"), b"data")
    store = open_artifact_store("memory:?quota_bytes=1MiB")
    with pytest.raises(ResourceExhausted, match="quota_bytes of the store is 1048576"):
        _put(store, bytes((1 << 20) + 1))


def test_a_directory_and_a_bucket_keep_what_was_put_for_whoever_opens_them(tmp_path: Path) -> None:
    for url in (f"file://{tmp_path}/store", shared_s3_server().url(new_prefix())):
        _put(open_artifact_store(url), b"data")
        assert b"".join(open_artifact_store(url).read(KEY)[1]) == b"data"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("disk:", "artifacts: 'disk:' has the scheme 'disk'; allowed are memory, file, s3"),
        ("memory:/a", "artifacts: 'memory:/a' names a place; allowed is memory:?<option>=<value>"),
        ("memory:?quota_bytes=0", "quota_bytes=0: Input should be greater than 0"),
        ("file:store", "names no directory; allowed is file:///directory"),
        ("file://host/store", "names no directory; allowed is file:///directory"),
        ("file:///store?verify=true", "verify=true: Extra inputs are not permitted; options are"),
        ("s3:///prefix", "names no bucket; allowed is s3://bucket/prefix"),
        ("s3://key:secret@bucket", "'s3://***@bucket' names no bucket"),
        ("s3://bucket?access_key_id=key", "access_key_id and secret_access_key_file go together"),
        (
            "s3://bucket?access_key_id=key&secret_access_key_file=/nowhere",
            "secret_access_key_file: cannot read /nowhere: No such file",
        ),
    ],
)
def test_a_url_that_cannot_be_honoured_is_refused(url: str, expected: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        open_artifact_store(url)
    assert str(caught.value).startswith("artifacts: ")
    assert expected in str(caught.value)


def test_a_bucket_that_cannot_be_used_is_refused_at_the_start(tmp_path: Path) -> None:
    server = shared_s3_server()
    wrong = tmp_path / "wrong"
    wrong.write_text("another secret")
    with pytest.raises(ConfigurationError, match="artifacts: cannot use s3://artifacts/x: "):
        open_artifact_store(server.url("x", secret_access_key_file=str(wrong)))
    missing = server.url("x").replace("s3://artifacts", "s3://nothing-of-this-name")
    with pytest.raises(ConfigurationError, match="artifacts: cannot use s3://nothing-of"):
        open_artifact_store(missing)


def test_a_server_that_is_gone_is_unavailable() -> None:
    gone = S3Store(
        "artifacts",
        endpoint="http://127.0.0.1:9",
        region="us-east-1",
        access_key_id="key",
        secret_access_key="secret",
        client_options={"allow_http": True},
        retry_config={"max_retries": 0},
    )
    store = ArtifactStore(S3Place(gone, "s3://artifacts"))
    with pytest.raises(Unavailable, match="artifacts: s3://artifacts cannot be used: "):
        _put(store, b"data")
    with pytest.raises(Unavailable, match="artifacts: s3://artifacts cannot be used: "):
        store.stat(KEY)
