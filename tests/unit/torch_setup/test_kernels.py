from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import torch
from diffusers import SD3Transformer2DModel
from diffusers.models.attention_dispatch import _AttentionBackendRegistry
from pydantic import SecretStr
from torch._inductor import config as inductor

from benchmarks.loops import our_loop
from benchmarks.random_model import FLUX_DEV, QWEN_IMAGE, Architecture, RandomModel, tiny
from denoiser_service.rank.stage import DenoiseStage
from services.domain.tensor_ref import Seal
from services.tensor_store.tensor_store import TensorStore, open_store
from services.torch_setup.kernels import attention_backends, compile_blocks, use_attention
from triptych.domain.errors import ConfigurationError

pytestmark = pytest.mark.slow

CACHES: list[dict[str, object]] = [
    {"kind": "none"},
    {"kind": "tea_cache", "rel_l1_thresh": 1.5, "coefficients": (0, 0, 0, 0, 1)},
    {"kind": "cache_dit", "max_warmup_steps": 2, "residual_diff_threshold": 1e9},
]


@pytest.fixture
def store() -> Iterator[TensorStore]:
    seal = Seal(SecretStr("a secret of at least 32 characters"))
    with closing(open_store("memory:", seal=seal, ttl_seconds=60)) as store:
        yield store


@pytest.fixture(autouse=True)
def _usual_attention() -> Iterator[None]:
    """The library keeps the backend of its latest model for those that name none."""
    before, _ = _AttentionBackendRegistry.get_active_backend()
    yield
    _AttentionBackendRegistry.set_active_backend(before)


def model_of(architecture: Architecture, tmp_path: Path) -> RandomModel:
    return RandomModel(tiny(architecture), tmp_path, torch.device("cpu"), torch.float32)


def drawn(model: RandomModel, store: TensorStore) -> list[torch.Tensor]:
    """Latents for every kind of cache."""
    stage = DenoiseStage(model.staged(model.transformer), store)
    return [
        our_loop(
            model,
            stage,
            store,
            model.parameters(width=64, height=64, steps=4, guidance_scale=1.0, cache=cache),
        )(lambda: None).latents
        for cache in CACHES
    ]


@pytest.mark.parametrize("architecture", [QWEN_IMAGE, FLUX_DEV], ids=["qwen-image", "flux"])
def test_compiled_blocks_are_what_is_run_and_skipped(
    architecture: Architecture, tmp_path: Path, store: TensorStore
) -> None:
    model = model_of(architecture, tmp_path)
    before = drawn(model, store)
    # Traces as for compilation, then runs what was traced as it is: the same bits.
    compile_blocks({"transformer": model.transformer}, backend="eager")
    compiled = [each for each in model.transformer.modules() if each._compiled_call_impl]
    assert len(compiled) == 10
    after = drawn(model, store)
    assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))
    assert not torch.equal(before[0], before[1])


def test_a_model_whose_blocks_are_not_known_is_not_compiled() -> None:
    transformer = _stable_diffusion_3()
    with pytest.raises(ConfigurationError, match=r"compile_blocks: .*SD3Transformer2DModel"):
        compile_blocks({"transformer": transformer})


# The compiler imports what warns of itself.
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_blocks_are_not_to_be_compiled_where_there_is_no_compiler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "compiled"))
    model = model_of(QWEN_IMAGE, tmp_path)
    without = inductor.patch({"cpp.cxx": (None, "no-such-compiler")})
    with without, pytest.raises(ConfigurationError, match=r"compile_blocks: .*no-such-compiler"):
        compile_blocks({"transformer": model.transformer})


def test_the_chosen_attention_is_the_one_that_is_called(tmp_path: Path, store: TensorStore) -> None:
    model = model_of(QWEN_IMAGE, tmp_path)
    (usual, *_) = drawn(model, store)
    use_attention({"transformer": model.transformer}, "_native_math")
    chosen = {each.processor._attention_backend for each in _attentions(model.transformer)}
    assert [each.value for each in chosen] == ["_native_math"]
    (drawn_so, *_) = drawn(model, store)
    assert torch.allclose(drawn_so, usual, atol=1e-5)


def _attentions(transformer: torch.nn.Module) -> list[torch.nn.Module]:
    return [each for each in transformer.modules() if hasattr(each, "processor")]


@pytest.mark.parametrize("backend", ["fast", "flash_hub", "flash", "_native_cudnn", "xformers"])
def test_an_attention_that_cannot_be_used_here_is_refused_by_name(
    backend: str, tmp_path: Path
) -> None:
    model = model_of(QWEN_IMAGE, tmp_path)
    with pytest.raises(ConfigurationError, match=f"attention_backend: .*'{backend}'"):
        use_attention({"transformer": model.transformer}, backend)


def test_an_attention_that_a_model_would_not_call_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="SD3Transformer2DModel does not let it be"):
        use_attention({"transformer": _stable_diffusion_3()}, "native")


def test_attention_that_is_fetched_as_code_is_never_offered() -> None:
    assert "native" in attention_backends()
    assert not [each for each in attention_backends() if "hub" in each]


def _stable_diffusion_3() -> torch.nn.Module:
    transformer: torch.nn.Module = SD3Transformer2DModel(
        num_layers=1, num_attention_heads=1, attention_head_dim=8, sample_size=8
    )
    return transformer
