"""One request as one tree of spans, read back by a real receiver."""

import json
import socket
from collections.abc import Iterator
from itertools import pairwise

import grpc
import pytest

from tests.system.otlp_receiver import ReceivedSpan, Receiver, receiving
from tests.system.running_cluster import RunningCluster, running_cluster
from triptych import CacheDit, InvalidRequestError
from triptych.v1 import generation_service_pb2, generation_service_pb2_grpc

PROMPT = "a confidential circle"
STEPS = 10
RANKS = 2
CLIENTS_TRACE = "0af7651916cd43dd8448eb211c80319c"
CLIENTS_SPAN = "b7ad6b7169203331"
# Of one request to a split cluster with two ranks: process, span, and the span above it.
TREE = {
    ("triptych-gateway", "generate", ""),
    ("triptych-encoder", "encode_prompt", "generate"),
    ("triptych-encoder", "queue", "encode_prompt"),
    ("triptych-encoder", "run", "encode_prompt"),
    ("triptych-encoder", "tensor_store.put", "run"),
    ("triptych-denoiser", "denoise", "generate"),
    ("triptych-denoiser", "queue", "denoise"),
    ("triptych-rank", "prepare", "denoise"),
    ("triptych-rank", "tensor_store.get", "prepare"),
    ("triptych-rank", "finish", "denoise"),
    ("triptych-rank", "tensor_store.put", "finish"),
    ("triptych-vae", "decode", "generate"),
    ("triptych-vae", "queue", "decode"),
    ("triptych-vae", "run", "decode"),
    ("triptych-vae", "tensor_store.get", "run"),
}


class Tree:
    """The spans of one trace, once its last one has come."""

    def __init__(self, spans: list[ReceivedSpan]) -> None:
        self.spans = spans
        self._by_id = {each.span_id: each for each in spans}

    @classmethod
    def of_job(cls, receiver: Receiver, **attributes: object) -> "Tree":
        """Waits for the one trace whose root has these attributes, and for all its spans."""

        def whole(spans: list[ReceivedSpan]) -> list[ReceivedSpan]:
            roots = [each for each in spans if attributes.items() <= each.attributes.items()]
            return [each for each in spans if roots and each.trace_id == roots[-1].trace_id]

        def complete(spans: list[ReceivedSpan]) -> bool:
            found = whole(spans)
            named = [each.name for each in found]
            # The last that each process ends.
            return {"generate", "decode", "encode_prompt", "denoise"} <= {*named} and named.count(
                "finish"
            ) == RANKS

        return cls(whole(receiver.wait_for(complete)))

    def above(self, span: ReceivedSpan) -> str:
        """The name of the span above."""
        return self._by_id[span.parent_id].name if span.parent_id in self._by_id else ""

    def edges(self) -> set[tuple[str, str, str]]:
        """Process, span, and the span above it."""
        return {(each.service, each.name, self.above(each)) for each in self.spans}

    def named(self, name: str) -> list[ReceivedSpan]:
        """All of one name, in the order they began."""
        return sorted((s for s in self.spans if s.name == name), key=lambda each: each.start)


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with receiving() as started:
        yield started


@pytest.fixture(scope="module")
def cluster(receiver: Receiver) -> Iterator[RunningCluster]:
    environment = {
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        "TRIPTYCH_DENOISER_TRACE_STEPS": "true",
    }
    flags = ("--topology", "split", "--otlp-endpoint", receiver.endpoint, "--cfg", "2")
    with running_cluster(*flags, environment=environment) as started:
        yield started


def test_a_request_is_one_tree_across_gateway_stages_and_ranks(
    cluster: RunningCluster, receiver: Receiver
) -> None:
    with cluster.client() as client:
        done = client.generate(
            PROMPT, steps=STEPS, cache=CacheDit(max_warmup_steps=4, residual_diff_threshold=0.5)
        )
    tree = Tree.of_job(receiver, **{"triptych.job_id": done.job_id})
    assert tree.edges() >= TREE
    (root,) = tree.named("generate")
    assert root.attributes["gen_ai.request.model"] == "triptych-demo"
    assert root.attributes["gen_ai.output.type"] == "image"
    assert root.attributes["triptych.steps"] == STEPS
    assert root.attributes["triptych.outcome"] == "succeeded"
    for each in tree.spans:
        assert each.start <= each.end
    order = [tree.named(each)[0] for each in ("encode_prompt", "denoise", "decode")]
    for earlier, later in pairwise(order):
        assert earlier.end <= later.start


def test_steps_are_events_of_the_denoiser_and_spans_of_every_rank(
    cluster: RunningCluster, receiver: Receiver
) -> None:
    with cluster.client() as client:
        done = client.generate(PROMPT, steps=STEPS)
    tree = Tree.of_job(receiver, **{"triptych.job_id": done.job_id})
    (denoise,) = tree.named("denoise")
    events = [attributes["triptych.step"] for name, attributes in denoise.events if name == "step"]
    assert events == list(range(1, STEPS + 1))
    steps = [
        (s.attributes["triptych.rank"], s.attributes["triptych.step"]) for s in tree.named("step")
    ]
    assert sorted(steps) == [(rank, step) for rank in (0, 1) for step in events]
    assert {each.attributes["triptych.rank"] for each in tree.named("prepare")} == {0, 1}
    (put,) = [each for each in tree.named("tensor_store.put") if tree.above(each) == "finish"]
    assert put.attributes["triptych.tensor.bytes"] > 0


def test_a_clients_own_trace_goes_on(cluster: RunningCluster, receiver: Receiver) -> None:
    request = generation_service_pb2.GenerateRequest()
    request.parameters.prompt, request.parameters.steps = PROMPT, 2
    metadata = (("traceparent", f"00-{CLIENTS_TRACE}-{CLIENTS_SPAN}-01"),)
    with grpc.insecure_channel(cluster.target) as channel:
        stub = generation_service_pb2_grpc.GenerationServiceStub(channel)
        assert list(stub.Generate(request, metadata=metadata, timeout=60))
    spans = receiver.wait_for(
        lambda all_: any(s.name == "generate" and s.trace_id == CLIENTS_TRACE for s in all_)
    )
    (root,) = [s for s in spans if s.name == "generate" and s.trace_id == CLIENTS_TRACE]
    assert root.parent_id == CLIENTS_SPAN


def test_what_fails_says_why_by_its_reason_alone(
    cluster: RunningCluster, receiver: Receiver
) -> None:
    with cluster.client() as client, pytest.raises(InvalidRequestError):
        client.generate(PROMPT, width=7)
    spans = receiver.wait_for(lambda all_: any(s.error for s in all_))
    (failed,) = [each for each in spans if each.error]
    assert (failed.name, failed.error) == ("generate", "INVALID_REQUEST")
    assert failed.attributes["triptych.outcome"] == "failed"


def test_no_span_says_anything_of_prompts(cluster: RunningCluster, receiver: Receiver) -> None:
    with cluster.client() as client:
        done = client.generate(PROMPT, negative_prompt="a secret square", steps=2)
    Tree.of_job(receiver, **{"triptych.job_id": done.job_id})
    for word in (b"circle", b"confidential", b"secret", b"square"):
        assert word not in receiver.raw


def test_lines_of_the_log_lead_to_the_trace(cluster: RunningCluster, receiver: Receiver) -> None:
    with cluster.client() as client:
        done = client.generate(PROMPT, steps=2)
    tree = Tree.of_job(receiver, **{"triptych.job_id": done.job_id})
    lines = (cluster.logs / "gateway.log").read_text().splitlines()
    ours = [json.loads(each) for each in lines if done.job_id in each]
    assert ours
    assert {each["trace_id"] for each in ours} == {tree.spans[0].trace_id}


def test_a_collector_that_is_not_there_costs_no_request_and_no_end() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        # Takes connections and never answers.
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with running_cluster("--topology", "fused", "--otlp-endpoint", endpoint) as cluster:
            with cluster.client() as client:
                assert client.generate(PROMPT, steps=2).data
            assert cluster.stop() == 0
