"""The two tools in this process, on a tiny model."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

from services.loaded_models.cache_profile import CacheProfile, read_profile
from services.tuning import calibrate, tune
from services.tuning.polynomial import IDENTITY
from services.tuning.settings import CalibrateSettings, TuneSettings
from tests.checkpoints import checkpoint
from tests.unit.loaded_models.profiles import profile
from triptych.domain.errors import ConfigurationError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint("ovis-image-7b", tmp_path_factory.mktemp("models"))


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def told(model: Path, tmp_path: Path, **values: object) -> dict[str, object]:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red circle\n")
    drawn = {"prompts": prompts, "steps": 8, "width": 64, "height": 64}
    return {"model": model, **drawn, **values}


def calibrated(model: Path, tmp_path: Path, **values: object) -> CacheProfile:
    file = tmp_path / "profile.json"
    settings = CalibrateSettings.model_validate(told(model, tmp_path, output=file, **values))
    calibrate.main(settings)
    return read_profile(file)


def test_the_identity_is_written_when_it_is_asked_for(model: Path, tmp_path: Path) -> None:
    written = calibrated(model, tmp_path, identity=True)
    assert written.tea_cache is not None
    assert written.tea_cache.polynomial == "identity"
    assert written.tea_cache.coefficients == IDENTITY
    assert written.tea_cache.fit.pairs == 14
    thresholds = [each.cache for each in written.tea_cache.measurements]
    assert len(thresholds) == len(set(thresholds)) > 1
    assert {each.coefficients for each in thresholds} == {IDENTITY}  # type: ignore[union-attr]


def test_calibrating_again_leaves_the_default_as_it_is(model: Path, tmp_path: Path) -> None:
    file = tmp_path / "profile.json"
    first = calibrated(model, tmp_path, identity=True)
    default = profile(first.model).default
    first.model_copy(update={"default": default}).write(file)
    assert calibrated(model, tmp_path, identity=True).default == default


def test_nothing_is_written_where_no_cache_holds(model: Path, tmp_path: Path) -> None:
    file = tmp_path / "profile.json"
    values = told(model, tmp_path, profile=file, min_psnr=1000, steps=4)
    with pytest.raises(ConfigurationError, match="no cache holds 1000 dB for every prompt"):
        tune.main(TuneSettings.model_validate(values))
    assert not file.exists()


def test_what_the_model_refuses_is_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="width: is 63; allowed are"):
        calibrated(model, tmp_path, width=63)
    empty = tmp_path / "empty.txt"
    empty.write_text("\n")
    with pytest.raises(ConfigurationError, match="has none; write one on each line"):
        calibrated(model, tmp_path, prompts=empty)
    with pytest.raises(ConfigurationError, match="images: are 1; this model takes none"):
        calibrated(model, tmp_path, image=(picture(tmp_path),))


def picture(tmp_path: Path) -> Path:
    file = tmp_path / "picture.png"
    Image.new("RGB", (64, 64)).save(file)
    return file
