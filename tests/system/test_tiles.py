"""A VAE that works in tiles draws what the stock pipeline draws in tiles, and says so."""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import QwenImagePipeline
from PIL import Image

from tests.processes import run
from tests.system.running_cluster import MODEL, RunningCluster, running_cluster
from triptych.generation import Generation

TILE = 64
STEPS = 2


@pytest.fixture(scope="module", params=["split", "fused"])
def tiled_cluster(request: pytest.FixtureRequest) -> Iterator[RunningCluster]:
    process = {"split": "VAE", "fused": "FUSED"}[request.param]
    told = {"TILING": "true", "TILE_SIZE": str(TILE), "TILE_OVERLAP": "0.5"}
    environment = {f"TRIPTYCH_{process}_{name}": value for name, value in told.items()}
    with running_cluster("--topology", request.param, environment=environment) as cluster:
        yield cluster


def drawn(cluster: RunningCluster, side: int) -> Generation:
    with cluster.client() as client:
        return client.generate(
            "two red hearts", width=side, height=side, steps=STEPS, guidance_scale=1.0, seed=7
        )


def test_large_pictures_are_those_of_the_stock_pipeline_in_tiles(
    tiled_cluster: RunningCluster, split_cluster: RunningCluster
) -> None:
    torch.set_num_threads(1)
    pipeline = QwenImagePipeline.from_pretrained(
        MODEL, dtype=torch.float32, local_files_only=True, use_safetensors=True
    )
    pipeline.vae.enable_tiling(TILE, TILE, TILE // 2, TILE // 2)
    (stock,) = pipeline(
        prompt="two red hearts",
        true_cfg_scale=1.0,
        width=128,
        height=128,
        num_inference_steps=STEPS,
        generator=torch.Generator("cpu").manual_seed(7),
    ).images
    tiled, whole = drawn(tiled_cluster, 128), drawn(split_cluster, 128)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(tiled.data))), np.asarray(stock))
    assert tiled.latents_checksum_xxh3 == whole.latents_checksum_xxh3
    assert tiled.data != whole.data
    assert (tiled.tile_size, whole.tile_size) == (TILE, 0)


def test_pictures_no_larger_than_a_tile_are_the_same_bytes(
    tiled_cluster: RunningCluster, split_cluster: RunningCluster
) -> None:
    assert drawn(tiled_cluster, TILE).data == drawn(split_cluster, TILE).data


def test_a_vae_whose_tiles_would_leave_gaps_does_not_start(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s" * 64)
    ended = run(
        *("vae_service", f"--listen=unix:{tmp_path}/v.sock"),
        *(f"--model={MODEL}", f"--cluster-secret-file={secret}"),
        *(f"--store=shm://{tmp_path}/store", "--tiling=true", "--tile-size=100"),
    )
    assert ended.returncode == 2, ended
    assert "Traceback" not in ended.stderr
    assert "tile_size: is 100; " in ended.stderr.strip().splitlines()[-1]
