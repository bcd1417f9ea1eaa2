import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from services.loaded_models.cache_profile import (
    CacheProfile,
    find_profile,
    fingerprint,
    profiled_model,
    read_profile,
)
from services.model_families import families, find_family
from services.model_files.directory import CACHE_PROFILE, ModelDirectory
from services.model_ports.spec import FamilySpec
from tests.checkpoints import checkpoint
from tests.unit.loaded_models.profiles import COEFFICIENTS, DEFAULT, profile
from triptych.domain.acceleration import NO_CACHE, CoefficientsSource
from triptych.domain.errors import ConfigurationError
from triptych.domain.model import Stage

DEMO = Path(__file__).parents[3] / "models" / "demo"


@pytest.fixture
def model(tmp_path: Path) -> ModelDirectory:
    """Only what says what the demo model is; a profile needs no weights."""
    path = tmp_path / "demo"
    for file in DEMO.rglob("*.json"):
        if file.name != CACHE_PROFILE:
            (path / file.relative_to(DEMO)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, path / file.relative_to(DEMO))
    return ModelDirectory(path)


@pytest.fixture
def spec(model: ModelDirectory) -> FamilySpec:
    return find_family(model).spec


@pytest.fixture
def written(tmp_path: Path, model: ModelDirectory, spec: FamilySpec) -> Path:
    file = tmp_path / "somewhere.json"
    profile(profiled_model(model, spec)).write(file)
    return file


def test_what_is_written_is_read(model: ModelDirectory, spec: FamilySpec, written: Path) -> None:
    assert read_profile(written) == profile(profiled_model(model, spec))
    assert find_profile(model, spec, written) == read_profile(written)
    assert list(written.parent.glob(".*")) == []


def test_the_profile_in_the_models_directory_is_taken_unless_another_is_given(
    model: ModelDirectory, spec: FamilySpec, written: Path
) -> None:
    assert find_profile(model, spec) is None
    own = CacheProfile(model=profiled_model(model, spec))
    own.write(model.path / CACHE_PROFILE)
    assert find_profile(model, spec) == own
    assert find_profile(model, spec, written) == read_profile(written)


def test_the_denoiser_alone_reads_it() -> None:
    for family in families():
        assert [stage for stage in Stage if CACHE_PROFILE in family.spec.patterns(stage)] == [
            Stage.DENOISER
        ]


def test_a_model_with_a_profile_has_its_coefficients_and_default(
    model: ModelDirectory, spec: FamilySpec, written: Path
) -> None:
    plain = spec.capabilities(model)
    capabilities = read_profile(written).applied(plain)
    assert plain.cache_support.coefficients_source is CoefficientsSource.PUBLISHED
    assert capabilities.cache_support.tea_cache_coefficients == COEFFICIENTS
    assert capabilities.cache_support.coefficients_source is CoefficientsSource.CALIBRATED
    assert (capabilities.defaults.cache, capabilities.defaults.cache_min_steps) == (DEFAULT, 10)


def test_an_empty_profile_changes_nothing(model: ModelDirectory, spec: FamilySpec) -> None:
    plain = spec.capabilities(model)
    assert CacheProfile(model=profiled_model(model, spec)).applied(plain) == plain


def _edit(**changes: Any) -> Callable[[dict[str, Any]], object]:
    return lambda content: content.update(changes)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_edit(version=2), "version: Input should be 1"),
        (_edit(colour="red"), "colour: Extra inputs are not permitted"),
        (_edit(model=None), "model: "),
        (lambda content: content["tea_cache"].update(coefficients=[1, 2]), "at least 5 items"),
        (lambda content: content["default"].update(cache={"kind": "none"}), "default.cache: "),
        (
            lambda content: content["model"].update(family="wan"),
            r"was made for triptych-demo \(wan, \w+\), not for triptych-demo \(qwen-image, \w+\)",
        ),
        (lambda content: content["model"].update(fingerprint="0" * 64), "000000000000"),
        (
            lambda content: content["default"]["cache"].update(fn_compute_blocks=13),
            "default: acceleration.cache_dit.fn_compute_blocks and bn_compute_blocks are 13",
        ),
        (
            lambda content: content["default"]["conditions"].update(steps=4),
            "default: acceleration.cache_dit.taylorseer needs at least 8 steps; there are 4",
        ),
    ],
)
def test_a_profile_that_cannot_be_honoured_is_refused_in_one_sentence(
    damage: Callable[[dict[str, Any]], object],
    said: str,
    model: ModelDirectory,
    spec: FamilySpec,
    written: Path,
) -> None:
    content = json.loads(written.read_text())
    damage(content)
    written.write_text(json.dumps(content))
    with pytest.raises(ConfigurationError, match=said) as caught:
        find_profile(model, spec, written)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [None, "", "[]", "{"])
def test_what_is_no_profile_is_refused(
    content: str | None, model: ModelDirectory, spec: FamilySpec, tmp_path: Path
) -> None:
    file = tmp_path / "none.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ConfigurationError, match=r"cache profile: .*none\.json"):
        find_profile(model, spec, file)


def test_the_fingerprint_is_that_of_what_the_transformer_is(
    model: ModelDirectory, spec: FamilySpec
) -> None:
    before = fingerprint(model, spec)
    config = model.path / "transformer" / "config.json"
    content = json.loads(config.read_text())
    config.write_text(json.dumps(content | {"_diffusers_version": "9.9"}, indent=7))
    assert fingerprint(ModelDirectory(model.path), spec) == before
    config.write_text(json.dumps(content | {"num_layers": 13}))
    assert fingerprint(ModelDirectory(model.path), spec) != before


def test_the_demo_model_has_the_identity_and_no_default() -> None:
    directory = ModelDirectory(DEMO)
    spec = find_family(directory).spec
    found = find_profile(directory, spec)
    assert found is not None
    assert found.tea_cache is not None
    assert found.tea_cache.polynomial == "identity"
    capabilities = found.applied(spec.capabilities(directory))
    assert capabilities.cache_support.tea_cache_coefficients == (0, 0, 0, 1, 0)
    # A plain request draws the stock pipeline's bits.
    assert capabilities.default_cache(50) == NO_CACHE


@pytest.mark.parametrize("name", ["wan2.2-t2v-a14b", "bagel-7b-mot"])
def test_all_that_denoises_is_in_the_fingerprint(name: str, tmp_path: Path) -> None:
    path = checkpoint(name, tmp_path)
    directory = ModelDirectory(path)
    spec = find_family(directory).spec
    before = fingerprint(directory, spec)
    config = path / ("llm_config.json" if spec.files else "transformer_2/config.json")
    config.write_text(json.dumps(json.loads(config.read_text()) | {"eps": 1e-3}))
    assert fingerprint(ModelDirectory(path), spec) != before
