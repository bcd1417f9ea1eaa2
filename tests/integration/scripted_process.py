"""A process of a cluster that does as its flags say. Run by test_local_cluster, never imported."""

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path


def main() -> None:
    flags = read_flags()
    journal(flags, "started")
    sys.stderr.write(json.dumps({"event": "starting", "name": flags.name}) + "\n")
    if flags.refuse and (flags.refuse_only_if is None or flags.refuse_only_if.exists()):
        sys.stderr.write(flags.refuse + "\n")
        sys.exit(2)
    if flags.crash:
        sys.stderr.write(flags.crash + "\n")
        sys.exit(1)
    if flags.killed:
        os.kill(os.getpid(), signal.SIGKILL)
    if flags.child:
        # In the same process group, and deaf to everything but SIGKILL.
        ignore = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.pause()"
        child = subprocess.Popen([sys.executable, "-c", ignore])
        flags.child.write_text(str(child.pid))
    if flags.ignore_sigterm:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        serve(flags)
        journal(flags, "ready")
        signal.pause()
    asked_to_end = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: asked_to_end.set())
    server = serve(flags)
    journal(flags, "ready")
    asked_to_end.wait()
    journal(flags, "draining")
    if server is not None:
        server.stop(grace=None).wait()
    journal(flags, "ended")


def read_flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--name", required=True)
    parser.add_argument("--journal", type=Path, required=True)
    parser.add_argument("--serve", help="address to answer grpc.health.v1 on")
    parser.add_argument("--needs", nargs="*", default=[], help="who must be ready before it serves")
    parser.add_argument("--refuse", help="say this and exit with 2")
    parser.add_argument("--refuse-only-if", type=Path, help="refuse only once this file is there")
    parser.add_argument("--crash", help="say this and exit with 1")
    parser.add_argument("--killed", action="store_true", help="as the system does for memory")
    parser.add_argument("--ignore-sigterm", action="store_true")
    parser.add_argument("--child", type=Path, help="start a stubborn child, write its pid here")
    return parser.parse_args()


def journal(flags: argparse.Namespace, what: str) -> None:
    line = f"{flags.name} {what}\n".encode()
    descriptor = os.open(flags.journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(descriptor, line)
    os.close(descriptor)


def serve(flags: argparse.Namespace):  # noqa: ANN201 - gRPC is imported only where it is needed
    if flags.serve is None:
        return None
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    class Health(health_pb2_grpc.HealthServicer):
        def Check(self, request: object, context: object) -> object:  # noqa: N802
            lines = flags.journal.read_text().splitlines()
            serving = all(f"{name} ready" in lines for name in flags.needs)
            return health_pb2.HealthCheckResponse(status="SERVING" if serving else "NOT_SERVING")

    server = grpc.server(ThreadPoolExecutor(2))
    health_pb2_grpc.add_HealthServicer_to_server(Health(), server)
    server.add_insecure_port(flags.serve)
    server.start()
    return server


if __name__ == "__main__":
    main()
