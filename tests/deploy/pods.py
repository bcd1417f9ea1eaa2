"""The chart's pods as processes of this machine, each at a loopback address of its own."""

import base64
import os
import re
import secrets
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

NAMESPACE = "default"
RENDEZVOUS_PORT = 7901


@dataclass(frozen=True, slots=True)
class Pod:
    """What Kubernetes, or the LeaderWorkerSet's controller, would make.

    Attributes:
        name: its host's.
        domain: the service that gives it an address.
        containers: of its template.
        address: its own, on this machine.
        variables: what the controller tells every container.
    """

    name: str
    domain: str
    containers: Sequence[dict[str, Any]]
    address: str
    variables: Mapping[str, str] = field(default_factory=dict)


def some_network() -> str:
    """The first three numbers of addresses that nobody else uses: the ports are the chart's."""
    return f"127.{secrets.randbelow(254) + 1}.{secrets.randbelow(256)}"


def pods_of(manifests: Sequence[dict[str, Any]], network: str) -> list[Pod]:
    """Every pod but the test's."""
    named = [each for manifest in manifests for each in _named(manifest)]
    return [
        Pod(name, domain, template["spec"]["containers"], f"{network}.{number}", variables)
        for number, (name, domain, template, variables) in enumerate(named, start=1)
    ]


def _named(manifest: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any], dict[str, str]]]:
    kind, spec = manifest["kind"], manifest.get("spec", {})
    name = manifest["metadata"]["name"]
    if kind == "Deployment":
        yield name, "", spec["template"], {}
    if kind == "StatefulSet":
        for number in range(spec["replicas"]):
            yield f"{name}-{number}", spec["serviceName"], spec["template"], {}
    if kind == "LeaderWorkerSet":
        group = spec["leaderWorkerTemplate"]
        for number in range(spec["replicas"]):
            for index in range(group["size"]):
                variables = {
                    "LWS_LEADER_ADDRESS": f"{name}-{number}.{name}.{NAMESPACE}",
                    "LWS_GROUP_SIZE": str(group["size"]),
                    "LWS_WORKER_INDEX": str(index),
                }
                template = group["workerTemplate" if index else "leaderTemplate"]
                yield f"{name}-{number}{f'-{index}' if index else ''}", name, template, variables


class RunningPods:
    """Starts containers, keeps them running, and ends them.

    Args:
        manifests: of the chart, with a model of this machine.
        folder: for what is mounted.
        network: see some_network.
        hosts: addresses of further names.
    """

    def __init__(
        self,
        manifests: Sequence[dict[str, Any]],
        folder: Path,
        network: str,
        hosts: Mapping[str, str],
    ) -> None:
        self.pods = {each.name: each for each in pods_of(manifests, network)}
        self._running: dict[tuple[str, str], subprocess.Popen[bytes]] = {}
        self._keepers: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._closed = False
        (secret,) = (each for each in manifests if each["kind"] == "Secret")
        mounted = folder / "secret"
        mounted.write_bytes(base64.b64decode(secret["data"]["secret"]))
        names = {
            f"{each.name}.{each.domain}{namespace}:": f"{each.address}:"
            for each in self.pods.values()
            for namespace in (f".{NAMESPACE}", "")
        }
        with socket.create_server(("", 0)) as free:
            # The one port that torch opens at every address.
            names[f":{RENDEZVOUS_PORT}"] = f":{free.getsockname()[1]}"
        self._seen = {**hosts, **names, "/run/cluster/secret": str(mounted)}

    def start(self) -> None:
        """Starts every container, and each again when it ends, as the kubelet does."""
        for pod in self.pods.values():
            for each in pod.containers:
                keeper = threading.Thread(target=self._keep, args=(pod, each))
                self._keepers.append(keeper)
                keeper.start()

    def processes(self, pod: str, container: str) -> list[psutil.Process]:
        """Those of a container, the one that was started first."""
        with self._lock:
            first = psutil.Process(self._running[pod, container].pid)
        return [first, *first.children(recursive=True)]

    def kill(self, pod: str, container: str) -> None:
        """Ends all processes of a container at once."""
        for each in self.processes(pod, container):
            each.kill()

    def terminate(self, pod: str) -> None:
        """Tells a pod's containers to end, each after its own hook; others take their place."""
        for each in self.pods[pod].containers:
            hook = each.get("lifecycle", {}).get("preStop", {"exec": {"command": ["true"]}})
            first = self.processes(pod, each["name"])[0]
            ending = threading.Thread(target=_end, args=(hook["exec"]["command"], first))
            self._keepers.append(ending)
            ending.start()

    def close(self) -> None:
        """Ends all."""
        with self._lock:
            self._closed = True
        for each in self._running:
            with suppress(psutil.NoSuchProcess):
                self.kill(*each)
        for keeper in self._keepers:
            keeper.join()

    def _keep(self, pod: Pod, container: dict[str, Any]) -> None:
        variables = dict(pod.variables)
        for each in container["env"]:
            value = pod.address if "valueFrom" in each else each["value"]
            variables[each["name"]] = _expanded(value, variables)
        environment = {name: self._here(value, pod) for name, value in variables.items()}
        arguments = [self._here(_expanded(each, variables), pod) for each in container["args"]]
        # The image's entry point.
        command = [sys.executable, "-m", *arguments]
        while True:
            with self._lock:
                if self._closed:
                    return
                process = subprocess.Popen(command, env=os.environ | environment)
                self._running[pod.name, container["name"]] = process
            process.wait()

    def _here(self, text: str, pod: Pod) -> str:
        """What a name, an address or a path in a pod is on this machine."""
        for name, found in {**self._seen, "0.0.0.0": pod.address}.items():
            text = text.replace(name, found)
        return text


def _end(hook: Sequence[str], first: psutil.Process) -> None:
    subprocess.run(hook, check=True)
    # It may have been killed meanwhile.
    with suppress(psutil.NoSuchProcess):
        first.terminate()


def _expanded(text: str, variables: Mapping[str, str]) -> str:
    return re.sub(r"\$\((\w+)\)", lambda found: variables.get(found[1], found[0]), text)
