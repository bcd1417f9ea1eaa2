"""The `triptych` command as a process, against a server that follows a script."""

import asyncio
import json
import re
import signal
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2

from tests.integration.command import end, run, start
from tests.integration.scripted_cluster import (
    PICTURE,
    ScriptedGateway,
    artifact_chunks,
    completed,
    duration,
    event,
    refuse,
    serving,
    successful_run,
)
from triptych.v1 import acceleration_pb2, generation_pb2, job_pb2
from triptych.v1 import generation_service_pb2 as messages

Responses = AsyncIterator[messages.GenerateResponse]


def names_in(directory: Path) -> list[str]:
    return [each.name for each in directory.iterdir()]


async def successful(
    request: messages.GenerateRequest, context: grpc.aio.ServicerContext
) -> Responses:
    for response in successful_run():
        yield response


async def never_ending(
    request: messages.GenerateRequest, context: grpc.aio.ServicerContext
) -> Responses:
    yield event(accepted=job_pb2.JobAccepted())
    await asyncio.Event().wait()


async def test_picture_is_written_and_its_making_reported(tmp_path: Path) -> None:
    path = tmp_path / "circle.png"
    async with serving(ScriptedGateway(successful)) as target:
        ended = await run("generate", "a red circle", "-o", str(path), "--target", target)
    assert (ended.code, ended.err) == (0, "")
    assert path.read_bytes() == PICTURE
    assert f"{path}: 128x64 pixels, {len(PICTURE)} bytes, seed 7" in ended.out
    encoder = next(line.split() for line in ended.out.splitlines() if line.startswith("encoder"))
    assert encoder == ["encoder", *("250.0", "ms", "1.00", "s", "125.0", "ms", "1.50", "s")]


async def with_a_cache(
    request: messages.GenerateRequest, context: grpc.aio.ServicerContext
) -> Responses:
    for response in artifact_chunks():
        yield response
    last = completed()
    last.event.completed.result.cache_statistics.CopyFrom(
        acceleration_pb2.CacheStatistics(
            computed_forwards=30,
            reused_forwards=10,
            branches=[
                acceleration_pb2.BranchStatistics(
                    branch=branch, computed_forwards=20 - reused, reused_forwards=reused
                )
                for branch, reused in (("cond", 6), ("uncond", 4))
            ],
            estimated_speedup=1.3125,
            realised_speedup=1.25,
        )
    )
    yield last


async def test_what_a_cache_did_is_told_to_people_and_to_scripts(tmp_path: Path) -> None:
    asked = ("generate", "a red circle", "-o", str(tmp_path / "circle.png"), "--target")
    async with serving(ScriptedGateway(with_a_cache)) as target:
        people = await run(*asked, target)
        scripts = await run(*asked, target, "--json")
    assert (
        "cache: 10 of 40 forwards reused (25%): cond 6 of 20, uncond 4 of 20;"
        " speed-up 1.31 estimated, 1.25 realised\n" in people.out
    )
    did = json.loads(scripts.out)["cache_statistics"]
    assert (did["reused_share"], did["realised_speedup"]) == (0.25, 1.25)
    assert [each["branch"] for each in did["branches"]] == ["cond", "uncond"]


async def on_ranks(
    request: messages.GenerateRequest, context: grpc.aio.ServicerContext
) -> Responses:
    for response in artifact_chunks():
        yield response
    last = completed()
    last.event.completed.result.parallel_degrees.CopyFrom(
        acceleration_pb2.ParallelDegrees(cfg_degree=2, ring_degree=1, ulysses_degree=2)
    )
    yield last


async def test_which_ranks_worked_is_told_to_people_and_to_scripts(tmp_path: Path) -> None:
    asked = ("generate", "a red circle", "-o", str(tmp_path / "circle.png"), "--target")
    async with serving(ScriptedGateway(on_ranks)) as target:
        people = await run(*asked, target)
        scripts = await run(*asked, target, "--json")
    assert "ranks: 4 (cfg 2, ring 1, ulysses 2)\n" in people.out
    assert json.loads(scripts.out)["parallel_degrees"] == {"cfg": 2, "ring": 1, "ulysses": 2}


async def in_tiles(
    request: messages.GenerateRequest, context: grpc.aio.ServicerContext
) -> Responses:
    for response in artifact_chunks():
        yield response
    last = completed()
    last.event.completed.result.artifacts[0].tile_size = 256
    yield last


async def test_that_a_vae_works_in_tiles_is_told_to_people_and_to_scripts(tmp_path: Path) -> None:
    asked = ("generate", "a red circle", "-o", str(tmp_path / "circle.png"), "--target")
    async with serving(ScriptedGateway(in_tiles)) as target:
        people = await run(*asked, target)
        scripts = await run(*asked, target, "--json")
    assert "tiles: of 256 pixels, where a picture is larger\n" in people.out
    assert json.loads(scripts.out)["tile_size"] == 256


async def test_a_fused_cluster_has_no_ranks() -> None:
    ended = await run("up", "--topology", "fused", "--cfg", "2")
    assert ended.code == 2
    assert "ranks are processes" in " ".join(ended.err.split())


async def test_every_option_reaches_the_cluster(tmp_path: Path) -> None:
    gateway = ScriptedGateway(successful)
    async with serving(gateway) as target:
        ended = await run(
            *("generate", "a red circle", "--output", str(tmp_path / "a.png")),
            *("--target", target, "--model", "demo", "--width", "128", "--height", "64"),
            *("--steps", "12", "--guidance", "2.5", "--negative", "blur", "--seed", "0"),
            *("--dtype", "float16"),
        )
    assert ended.code == 0
    sent = {field.name: value for field, value in gateway.requests[0].parameters.ListFields()}
    assert sent == {
        "model": "demo",
        "prompt": "a red circle",
        "negative_prompt": "blur",
        "width": 128,
        "height": 64,
        "steps": 12,
        "guidance_scale": 2.5,
        "seed": 0,
        "dtype": 3,
        "media_format": generation_pb2.MEDIA_FORMAT_PNG,
    }


async def test_json_is_one_object_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "circle.png"
    async with serving(ScriptedGateway(successful)) as target:
        ended = await run("generate", "a red circle", "-o", str(path), "--target", target, "--json")
    assert (ended.code, ended.err) == (0, "")
    report = json.loads(ended.out)
    assert report["path"] == str(path)
    assert report["size_bytes"] == len(PICTURE)
    assert report["seed"] == 7
    assert report["latents_checksum_xxh3"] == "fedcba9876543210"
    assert [timing["stage"] for timing in report["stage_timings"]] == ["encoder", "denoiser", "vae"]


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ("missing/a.png", "does not exist"),
        ("a.gif", "allowed are .png, .jpg, .jpeg, .webp, .mp4, .zip"),
        ("a", "allowed are .png, .jpg, .jpeg, .webp, .mp4, .zip"),
        ("directory.png", "is a directory"),
    ],
)
async def test_unusable_output_is_refused_before_anything_is_asked(
    tmp_path: Path, output: str, said: str
) -> None:
    (tmp_path / "directory.png").mkdir()
    gateway = ScriptedGateway(successful)
    async with serving(gateway) as target:
        ended = await run("generate", "x", "-o", output, "--target", target, directory=tmp_path)
    assert ended.code == 2
    assert said in " ".join(ended.err.replace("│", " ").split())
    assert gateway.requests == []


async def test_refused_request_lists_the_fields(tmp_path: Path) -> None:
    async def script(
        request: messages.GenerateRequest, context: grpc.aio.ServicerContext
    ) -> Responses:
        violation = error_details_pb2.BadRequest.FieldViolation
        details = error_details_pb2.BadRequest(
            field_violations=[
                violation(field="guidance_scale", description="is nan; allowed are 1 to 20"),
                violation(field="width", description="is 100; allowed are multiples of 16"),
            ]
        )
        code = grpc.StatusCode.INVALID_ARGUMENT
        await refuse(context, code, "INVALID_REQUEST", "bad", details)
        yield messages.GenerateResponse()

    async with serving(ScriptedGateway(script)) as target:
        ended = await run(
            *("generate", "x", "-o", str(tmp_path / "a.png"), "--target", target),
            *("--guidance", "nan", "--width", "100"),
        )
    assert ended.code == 3
    assert ended.err.splitlines() == [
        "triptych: the request was refused:",
        "  guidance_scale is nan; allowed are 1 to 20",
        "  width is 100; allowed are multiples of 16",
    ]
    assert names_in(tmp_path) == []


async def test_overload_exits_with_4_and_says_when_to_try_again(tmp_path: Path) -> None:
    async def script(
        request: messages.GenerateRequest, context: grpc.aio.ServicerContext
    ) -> Responses:
        details = error_details_pb2.RetryInfo(retry_delay=duration(3))
        code = grpc.StatusCode.RESOURCE_EXHAUSTED
        await refuse(context, code, "QUEUE_FULL", "the denoiser's queue is full", details)
        yield messages.GenerateResponse()

    async with serving(ScriptedGateway(script)) as target:
        ended = await run("generate", "x", "-o", str(tmp_path / "a.png"), "--target", target)
    assert ended.code == 4
    assert ended.err == "triptych: the denoiser's queue is full; try again in 3 s\n"


async def test_unreachable_cluster_exits_with_4_and_names_the_address(
    tmp_path: Path, unused_tcp_port_factory: Callable[[], int]
) -> None:
    target = f"127.0.0.1:{unused_tcp_port_factory()}"
    for command in (
        ["generate", "x", "-o", str(tmp_path / "a.png"), "--target", target],
        ["models", "--target", target],
    ):
        ended = await run(*command)
        assert ended.code == 4
        assert ended.err.startswith(f"triptych: the cluster at {target} cannot be reached")
        assert "Traceback" not in ended.err


async def test_passed_deadline_exits_with_5(tmp_path: Path) -> None:
    async with serving(ScriptedGateway(never_ending)) as target:
        ended = await run(
            *("generate", "x", "-o", str(tmp_path / "a.png"), "--target", target),
            *("--timeout", "0.5"),
        )
    assert ended.code == 5
    assert "deadline" in ended.err


async def test_damaged_picture_is_not_written(tmp_path: Path) -> None:
    async def script(
        request: messages.GenerateRequest, context: grpc.aio.ServicerContext
    ) -> Responses:
        for response in artifact_chunks(PICTURE[1:]):
            yield response
        yield list(successful_run())[-1]

    async with serving(ScriptedGateway(script)) as target:
        ended = await run("generate", "x", "-o", str(tmp_path / "a.png"), "--target", target)
    assert ended.code == 4
    assert "artifact" in ended.err
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_interrupted_command_cancels_its_job_and_exits_with_130(
    tmp_path: Path, number: signal.Signals
) -> None:
    accepted = asyncio.Event()

    async def script(
        request: messages.GenerateRequest, context: grpc.aio.ServicerContext
    ) -> Responses:
        accepted.set()
        await asyncio.Event().wait()
        yield messages.GenerateResponse()

    gateway = ScriptedGateway(script)
    async with serving(gateway) as target:
        process = await start("generate", "x", "-o", str(tmp_path / "a.png"), "--target", target)
        await asyncio.wait_for(accepted.wait(), 60)
        process.send_signal(number)
        ended = await end(process)
        await asyncio.wait_for(gateway.cancelled.wait(), 10)
    assert (ended.code, ended.err) == (130, "triptych: cancelled\n")
    assert names_in(tmp_path) == []


async def test_without_target_or_model_it_says_what_to_give(tmp_path: Path) -> None:
    ended = await run("generate", "x", "-o", "a.png", directory=tmp_path)
    assert ended.code == 2
    assert "--model" in ended.err
    assert "models/demo" in ended.err


async def test_option_without_effect_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    ended = await run(
        *("generate", "x", "-o", "a.png", "--target", "127.0.0.1:1", "--topology", "fused"),
        directory=tmp_path,
    )
    assert (ended.code, "--topology" in ended.err) == (2, True)
    ended = await run(
        *("generate", "x", "-o", "a.png", "--target", "127.0.0.1:1", "--offline"),
        directory=tmp_path,
    )
    assert (ended.code, "--offline" in ended.err) == (2, True)
    ended = await run(
        *("up", "--model", "model", "--topology", "fused", "--store", "shm:///dev/shm/x"),
        directory=tmp_path,
    )
    assert (ended.code, "--store" in ended.err) == (2, True)


async def test_a_size_that_is_none_is_refused_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    for size in ("much", "-1"):
        ended = await run(
            *("up", "--model", "model", "--conditioning-cache", size), directory=tmp_path
        )
        assert ended.code == 2
        said = " ".join(ended.err.replace("│", " ").split())
        assert f"is '{size}'; allowed is a number of bytes" in said


async def test_port_in_use_is_explained(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        ended = await run("up", "--model", "model", "--listen", address, directory=tmp_path)
    assert ended.code == 2
    assert ended.err.startswith(f"triptych: {address} is in use")
    assert "--listen" in ended.err


async def test_models_are_listed_and_described() -> None:
    async with serving(ScriptedGateway(successful)) as target:
        listed = await run("models", "--target", target)
        described = await run("models", "demo", "--target", target)
        unknown = await run("models", "other", "--target", target)
    assert (listed.code, described.code, unknown.code) == (0, 0, 3)
    row = listed.out.splitlines()[1].split()
    assert row == ["demo", "qwen-image", "float32", "128x128", "20", "4", "0"]
    assert "64 to 256, multiples of 16" in described.out
    assert re.search(r"^shares steps +never\b", described.out, re.MULTILINE)
    assert "served models: demo" in unknown.err


async def test_help_documents_the_exit_codes() -> None:
    for command in ([], ["up"], ["generate"], ["models"]):
        ended = await run(*command, "--help")
        assert ended.code == 0
        assert "130 cancelled" in " ".join(ended.out.split())


async def test_version_is_the_package_version() -> None:
    from triptych import __version__

    assert (await run("version")).out == f"triptych {__version__}\n"


async def test_a_key_is_made_only_for_a_name_that_a_gateway_takes() -> None:
    refused = await run("new-key", "a b")
    assert refused.code == 2
    assert "'a b'; allowed are 1 to 64" in " ".join(refused.err.split())
    made = await run("new-key", "acme")
    (tenant,) = json.loads(made.out)["tenants"]
    assert (made.code, tenant["name"]) == (0, "acme")
    assert made.err.strip() not in made.out
