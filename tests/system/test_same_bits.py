"""Split, fused and the stock diffusers pipeline draw the same bits, in fp32 on a CPU."""

import io
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import xxhash
from diffusers import QwenImagePipeline
from PIL import Image

from tests.system.running_cluster import RunningCluster
from triptych.domain.output_options import OutputOptions
from triptych.generation import Generation


@dataclass(frozen=True)
class Case:
    prompt: str
    width: int = 128
    height: int = 128
    steps: int = 6
    guidance_scale: float = 4.0
    negative_prompt: str | None = None
    seed: int = 7


CASES = [
    Case("a red circle on a blue background"),
    Case("a green star", steps=2),
    Case("two black squares on a yellow background", steps=11, seed=2**63 - 1),
    Case("a pink heart", width=96, height=160, seed=0),
    Case("a white moon on a black background", width=64, height=64, guidance_scale=1.0),
    Case("an orange ring", guidance_scale=2.5, negative_prompt="a blue square, {braces} & ünïcode"),
]


def drawn_by(cluster: RunningCluster, case: Case) -> Generation:
    with cluster.client() as client:
        return client.generate(
            case.prompt,
            width=case.width,
            height=case.height,
            steps=case.steps,
            guidance_scale=case.guidance_scale,
            negative_prompt=case.negative_prompt,
            seed=case.seed,
        )


def drawn_by_stock(pipeline: QwenImagePipeline, case: Case) -> tuple[np.ndarray, int]:
    """Pixels, and the checksum of the unpacked latents."""
    guided = case.guidance_scale > 1
    negative = (case.negative_prompt or " ") if guided else None

    def run(output_type: str) -> object:
        return pipeline(
            prompt=case.prompt,
            negative_prompt=negative,
            true_cfg_scale=case.guidance_scale,
            width=case.width,
            height=case.height,
            num_inference_steps=case.steps,
            generator=torch.Generator("cpu").manual_seed(case.seed),
            output_type=output_type,
        ).images

    packed = run("latent")
    latents = pipeline._unpack_latents(packed, case.height, case.width, pipeline.vae_scale_factor)
    checksum = xxhash.xxh3_64_intdigest(latents.contiguous().numpy().tobytes())
    (picture,) = run("pil")
    return np.asarray(picture), checksum


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.prompt)
def test_split_fused_and_stock_give_the_same_bits(
    case: Case,
    split_cluster: RunningCluster,
    fused_cluster: RunningCluster,
    stock_pipeline: QwenImagePipeline,
) -> None:
    split, fused = drawn_by(split_cluster, case), drawn_by(fused_cluster, case)
    pixels, latents_checksum = drawn_by_stock(stock_pipeline, case)

    assert split.data == fused.data
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(split.data))), pixels)
    assert split.latents_checksum_xxh3 == fused.latents_checksum_xxh3 == latents_checksum


def test_several_pictures_of_one_request_are_those_of_as_many_requests(
    split_cluster: RunningCluster, fused_cluster: RunningCluster
) -> None:
    alone = [drawn_by(split_cluster, Case("a red circle", seed=seed)) for seed in (5, 6, 7)]
    for cluster in (split_cluster, fused_cluster):
        with cluster.client() as client:
            drawn = client.generate(
                "a red circle",
                width=128,
                height=128,
                steps=6,
                guidance_scale=4.0,
                seed=5,
                num_images=3,
            )
        assert drawn.pictures() == [generation.data for generation in alone]
        assert [artifact.seed for artifact in drawn.artifacts] == [5, 6, 7]
        checksums = [artifact.latents_checksum_xxh3 for artifact in drawn.artifacts]
        assert checksums == [generation.latents_checksum_xxh3 for generation in alone]


@pytest.mark.parametrize("media_format", ["jpeg", "webp"])
def test_a_picture_is_compressed_as_it_was_asked(
    media_format: str, split_cluster: RunningCluster
) -> None:
    with split_cluster.client() as client:
        drawn = client.generate(
            "a red circle",
            width=64,
            height=64,
            steps=2,
            media_format=media_format,
            output=OutputOptions(quality=80),
        )
    assert drawn.media_format == media_format
    assert drawn.parameters.output == OutputOptions(quality=80)
    picture = Image.open(io.BytesIO(drawn.data))
    assert (picture.format, picture.size) == (media_format.upper(), (64, 64))


def test_another_seed_gives_another_picture(split_cluster: RunningCluster) -> None:
    one = drawn_by(split_cluster, Case("a red circle", seed=1))
    other = drawn_by(split_cluster, Case("a red circle", seed=2))

    assert one.data != other.data
    assert one.latents_checksum_xxh3 != other.latents_checksum_xxh3


def test_the_same_seed_gives_the_same_file(split_cluster: RunningCluster) -> None:
    assert (
        drawn_by(split_cluster, Case("a red circle")).data
        == drawn_by(split_cluster, Case("a red circle")).data
    )


def test_the_picture_shows_what_the_prompt_says(split_cluster: RunningCluster) -> None:
    drawn = drawn_by(split_cluster, Case("a red circle on a blue background", steps=20))
    pixels = np.asarray(Image.open(io.BytesIO(drawn.data))).astype(int)

    def looks(place: tuple[int, int], strong: int) -> bool:
        colour = pixels[place]
        return all(colour[strong] > colour[each] + 60 for each in range(3) if each != strong)

    assert looks((64, 64), strong=0), f"the centre is {pixels[64, 64]}, not red"
    for corner in ((8, 8), (8, 120), (120, 8), (120, 120)):
        assert looks(corner, strong=2), f"the corner {corner} is {pixels[corner]}, not blue"


def test_requests_that_share_the_cluster_get_the_bits_they_would_get_alone(
    split_cluster: RunningCluster,
) -> None:
    cases = [Case(f"a {colour} star", seed=seed) for seed, colour in enumerate(("red", "blue"))]
    alone = [drawn_by(split_cluster, case).data for case in cases]

    with split_cluster.client() as client:
        streams = [
            client.stream(case.prompt, width=128, height=128, steps=6, seed=case.seed)
            for case in cases
        ]
        # Each stream is read one event at a time in turn, so both are under way at once.
        finished: dict[int, bytes] = {}
        while len(finished) < len(streams):
            for place, stream in enumerate(streams):
                event = next(stream, None)
                if event is not None and hasattr(event, "generation"):
                    finished[place] = event.generation.data

    assert [finished[place] for place in range(len(cases))] == alone
