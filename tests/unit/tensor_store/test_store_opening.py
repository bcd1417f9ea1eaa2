import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from pydantic import SecretStr

from services.domain.tensor_ref import MAX_INLINE_BYTES, Seal
from services.tensor_store.opening import open_blob_store
from services.tensor_store.tensor_store import open_store
from triptych.domain.errors import ConfigurationError, StoreFull

REPOSITORY = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "scheme ''; allowed are memory, shm, redis, rediss, redis\\+unix"),
        ("file:///tmp", "scheme 'file'; allowed are memory, shm"),
        ("shm://dev/shm/x", "names no absolute directory; allowed is shm:///directory"),
        ("shm:", "names no absolute directory"),
        ("memory:///somewhere", "names a place; allowed is memory:"),
        ("memory:?quota=5", "quota=5: .*; options are quota_bytes, verify"),
        ("memory:?quota_bytes=0", "quota_bytes=0: .*greater than 0"),
        ("memory:?quota_bytes=many", "quota_bytes=many: .*valid integer"),
        ("memory:?verify=perhaps", "verify=perhaps: .*valid boolean"),
        ("memory:?verify=true&verify=false", "has an option twice"),
        ("memory:?verify", "has an option that is not <option>=<value>"),
        ("memory:#x", "has a fragment"),
        ("shm://[", "is not a URL"),
    ],
)
def test_a_bad_url_is_refused_with_what_is_allowed(url: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        open_blob_store(url)


def test_a_store_that_would_put_more_into_a_reference_than_one_may_carry_is_not_opened() -> None:
    seal = Seal(SecretStr("a secret of at least 32 characters"))
    with pytest.raises(ConfigurationError, match=r"^inline_bytes: is 1048577; allowed are at most"):
        open_store("memory:", seal=seal, ttl_seconds=1, inline_bytes=MAX_INLINE_BYTES + 1)


def test_options_of_the_url_are_honoured(shm_root: Path) -> None:
    with closing(open_blob_store(f"shm://{shm_root}?quota_bytes=8192&verify=true")) as store:
        assert store.verifies_reads
        assert store.stats().quota_bytes == 8192
        with pytest.raises(StoreFull), store.reserve("t", "a" * 32, 8193, 2.0**40):
            pass


def test_opening_a_store_does_not_load_torch() -> None:
    program = (
        "import sys, services.tensor_store.opening as opening;"
        "opening.open_blob_store('memory:').close();"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, check=True)


@pytest.mark.parametrize(
    "url",
    [
        "redis://user:hunter2@localhost",
        "redis://:hunter2@localhost?db=-1",
        "redis://user:a/hunter2#@localhost",
        "redis://user:@hunter2@[",
        "redis+unix://user:hunter2@/socket",
        "rediss://localhost?db=0&password=hunter2",
        "redis://localhost?password=hunter2&password=hunter2",
        "redis://localhost?password=hunter2&db",
        "ftp://user:hunter2@localhost",
        "memory://user:hunter2@localhost",
        "shm://user:hunter2@localhost",
    ],
)
def test_a_password_in_a_url_is_refused_and_told_to_nobody(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"\*\*\*") as refusal:
        open_blob_store(url)
    assert "hunter2" not in str(refusal.value)
