import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from services.model_families import Family, families, find_family
from services.model_files.directory import ModelDirectory
from triptych.domain.errors import ConfigurationError
from triptych.domain.model import Stage

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]


def test_a_family_is_found_by_the_pipeline_class_it_serves(demo: Path) -> None:
    family = find_family(ModelDirectory(demo))
    assert (family.folder, family.spec.name) == ("qwen_image", "qwen-image")


def test_a_pipeline_class_nobody_serves_is_refused_with_those_that_are(
    demo: Path, configure: Callable[..., None]
) -> None:
    configure("model_index.json", _class_name="NewestPipeline")
    with pytest.raises(
        ConfigurationError, match=r"_class_name is NewestPipeline; served are .*QwenImagePipeline"
    ):
        find_family(ModelDirectory(demo))


def test_no_two_families_claim_the_same_pipeline_class_or_name() -> None:
    specs = [family.spec for family in families()]
    classes = [each for spec in specs for each in spec.pipeline_classes]
    names = [spec.name for spec in specs]
    assert len(set(classes)) == len(classes) > 0
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("family", list(families()), ids=lambda family: family.folder)
def test_every_family_has_weights_for_each_stage_and_a_class_for_each_subfolder(
    family: Family,
) -> None:
    spec = family.spec
    for stage in Stage:
        assert spec.weights[stage]
        assert {*spec.weights[stage], *spec.configs[stage]} <= spec.classes.keys()


def test_families_describe_models_without_loading_torch(demo: Path) -> None:
    run_in_new_process(
        f"""
        import sys
        from pathlib import Path
        from triptych.domain.model import Stage
        from services.model_files.directory import ModelDirectory
        from services.model_families import find_family
        directory = ModelDirectory(Path({str(demo)!r}))
        spec = find_family(directory).spec
        assert spec.capabilities(directory).size_multiple == 16
        for stage in Stage:
            spec.check(directory, stage)
        loaded = sorted({{"torch", "diffusers", "transformers", "PIL"}} & sys.modules.keys())
        assert not loaded, loaded
        """
    )


def test_loading_a_model_opens_no_connection_and_runs_none_of_its_code(
    demo: Path, configure: Callable[..., None]
) -> None:
    (demo / "text_encoder" / "modeling.py").write_text("raise SystemExit('this was run')")
    configure("text_encoder/config.json", auto_map={"AutoModel": "modeling.Model"})
    run_in_new_process(
        f"""
        import sys
        from pathlib import Path
        from triptych.domain.element_type import ElementType
        from services.loaded_models.loading import load_denoiser, load_encoder, load_vae
        def refuse(event, arguments):
            assert event not in ("socket.connect", "socket.getaddrinfo"), event
        sys.addaudithook(refuse)
        for load in (load_encoder, load_denoiser, load_vae):
            load(Path({str(demo)!r}), None, ElementType.FLOAT32, "cpu")
        """
    )


def run_in_new_process(code: str) -> None:
    lines = [line.removeprefix(" " * 8) for line in code.splitlines()]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
