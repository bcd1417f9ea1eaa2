"""Bad input gets a message with the field and what is allowed, before any work, without residue."""

import math
from typing import Any

import grpc
import pytest

from denoiser_service.rank.channel import MAX_FRAME_BYTES
from tests.fuzz.calls import Callers, SoundRequests
from tests.system.running_cluster import RunningCluster, until
from triptych import InvalidRequestError, ModelNotFoundError
from triptych.status import failure_of

BAD: list[tuple[str, dict[str, Any], str]] = [
    ("prompt", {"prompt": ""}, "empty"),
    ("prompt", {"prompt": "  \n"}, "empty"),
    ("prompt", {"prompt": "red " * 2000}, "at most"),
    ("prompt", {"prompt": "a\x00circle"}, "control characters"),
    ("negative_prompt", {"negative_prompt": "x" * 9000}, "at most"),
    ("negative_prompt", {"negative_prompt": "blue", "guidance_scale": 1.0}, "above 1"),
    ("width", {"width": 100}, "multiples of 16"),
    ("height", {"height": 8}, "multiples of 16"),
    ("width", {"width": 1_000_000}, "multiples of 16"),
    ("width", {"width": 4096, "height": 4096}, "pixels"),
    ("steps", {"steps": 1}, "2 to"),
    ("steps", {"steps": 0}, "2 to"),
    ("steps", {"steps": 1_000_000}, "2 to"),
    ("guidance_scale", {"guidance_scale": math.nan}, "nan"),
    ("guidance_scale", {"guidance_scale": math.inf}, "inf"),
    ("guidance_scale", {"guidance_scale": -1.0}, "allowed are"),
    ("seed", {"seed": 2**63}, "allowed are 0 to"),
    ("dtype", {"dtype": "bfloat16"}, "float32"),
]


@pytest.mark.parametrize(("field", "options", "says"), BAD)
def test_a_bad_field_is_refused_by_name(
    field: str, options: dict[str, Any], says: str, split_cluster: RunningCluster
) -> None:
    request = {"prompt": "a red circle"} | options
    with split_cluster.client() as client, pytest.raises(InvalidRequestError) as refusal:
        client.generate(**request)

    assert [each.field for each in refusal.value.violations] == [field]
    assert says in refusal.value.violations[0].description
    # Of requests before this one, too, what failed is released once their callers were told.
    assert until(lambda: split_cluster.stored_tensors() == [])


def test_all_bad_fields_are_reported_together(split_cluster: RunningCluster) -> None:
    with split_cluster.client() as client, pytest.raises(InvalidRequestError) as refusal:
        client.generate("", width=100, steps=1, guidance_scale=math.nan)

    fields = {each.field for each in refusal.value.violations}
    assert fields == {"prompt", "width", "steps", "guidance_scale"}


def test_a_prompt_with_too_many_tokens_is_refused_not_cut(split_cluster: RunningCluster) -> None:
    # Far fewer characters than allowed, but every one of these is several tokens.
    with split_cluster.client() as client, pytest.raises(InvalidRequestError) as refusal:
        client.generate("漢" * 900)

    (violation,) = refusal.value.violations
    assert violation.field == "prompt"
    assert "tokens" in violation.description
    assert "512" in violation.description
    # Of requests before this one, too, what failed is released once their callers were told.
    assert until(lambda: split_cluster.stored_tensors() == [])


def test_an_unknown_model_is_refused_with_the_served_ones(split_cluster: RunningCluster) -> None:
    with split_cluster.client() as client, pytest.raises(ModelNotFoundError, match="triptych-demo"):
        client.generate("a red circle", model="flux")


def test_the_fused_cluster_refuses_in_the_same_words(
    split_cluster: RunningCluster, fused_cluster: RunningCluster
) -> None:
    said = []
    for cluster in (split_cluster, fused_cluster):
        with cluster.client() as client, pytest.raises(InvalidRequestError) as refusal:
            client.generate("a red circle", width=100, steps=1)
        said.append(refusal.value.violations)

    assert said[0] == said[1]


def test_a_prompt_longer_than_what_ranks_are_told_is_refused_by_every_stage(
    split_cluster: RunningCluster,
) -> None:
    length = MAX_FRAME_BYTES + 1
    with Callers(split_cluster) as callers:
        sound = SoundRequests(callers)
        for service, method, request in (
            ("EncoderService", "Encode", sound.encode),
            ("VaeService", "EncodeImage", sound.encode_image),
            ("DenoiserService", "Denoise", sound.denoise),
            ("VaeService", "Decode", sound.decode),
            ("VaeService", "DrawPreview", sound.draw_preview),
        ):
            request.parameters.prompt = "a" * length
            with pytest.raises(grpc.RpcError) as refused:
                callers.ask(service.removesuffix("Service").lower(), service, method, request, None)
            failure = failure_of(refused.value)
            assert failure.status == "INVALID_ARGUMENT", method
            (violation,) = failure.violations
            assert violation.field == "prompt"
            assert violation.description == f"has {length} characters; allowed are at most 4096"
        callers.release()
        assert callers.busy() == dict.fromkeys(callers.stages, (0, 0, 0))
