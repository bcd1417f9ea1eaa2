from collections.abc import Iterator

import pytest
import torch
from diffusers import QwenImagePipeline

from tests.system.running_cluster import MODEL, RunningCluster, running_cluster


@pytest.fixture(scope="session")
def split_cluster() -> Iterator[RunningCluster]:
    with running_cluster("--topology", "split") as cluster:
        yield cluster


@pytest.fixture(scope="session")
def fused_cluster() -> Iterator[RunningCluster]:
    with running_cluster("--topology", "fused") as cluster:
        yield cluster


@pytest.fixture(scope="session")
def stock_pipeline() -> QwenImagePipeline:
    torch.set_num_threads(1)
    pipeline = QwenImagePipeline.from_pretrained(
        MODEL, dtype=torch.float32, local_files_only=True, use_safetensors=True
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
