"""Tiles and slices are the library's own: the published pipelines with them draw the same bits."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL

from services.domain.tiling import Tiling
from tests.conformance.gallery import Gallery
from tests.conformance.references import Drawn, Reference, references
from tests.conformance.split_stages import Split
from triptych.domain.element_type import ElementType
from triptych.domain.errors import ConfigurationError
from triptych.domain.generation import GenerationParameters
from vae_service.tiling import set_pieces

TILE = 32
LARGE_TILE = 1024
LAYERED = "qwen-image-layered"


@pytest.fixture
def split(gallery: Gallery, reference: Reference) -> Iterator[Split]:
    split = gallery.split(reference, ElementType.FLOAT32)
    with as_it_was(split.vae.model.components["vae"]):
        yield split


@pytest.fixture
def published(gallery: Gallery, reference: Reference) -> Iterator[Any]:
    pipeline = gallery.published(reference, ElementType.FLOAT32)
    with as_it_was(vae_of(pipeline)):
        yield pipeline


@contextmanager
def as_it_was(vae: Any) -> Iterator[None]:
    """Other tests use the same one."""
    before = {
        name: value for name, value in vars(vae).items() if name.startswith(("tile_", "use_"))
    }
    yield
    vars(vae).update(before)


def vae_of(pipeline: Any) -> Any:
    return pipeline.vae if isinstance(pipeline.vae, torch.nn.Module) else pipeline.vae._vae


def largest(split: Split, reference: Reference) -> GenerationParameters:
    cases = [split.parameters(**asked) for asked in reference.cases]
    return max(cases, key=lambda each: (each.width * each.height, len(each.images)))


def same(one: Drawn, other: Drawn) -> bool:
    return torch.equal(one.latents, other.latents) and one.pixels == other.pixels


def test_tiles_draw_what_the_published_pipeline_draws_with_tiles(
    split: Split, published: Any, reference: Reference
) -> None:
    parameters = largest(split, reference)
    whole = split.draw(parameters)
    assert set_pieces(split.vae.model, Tiling(TILE), slicing=False) == TILE
    vae = vae_of(published)
    if isinstance(vae, AutoencoderKL):
        vae.enable_tiling()
        vae.tile_sample_min_size, vae.tile_latent_min_size = TILE, TILE // 8
    else:
        vae.enable_tiling(TILE, TILE, TILE * 3 // 4, TILE * 3 // 4)
    ours = split.draw(parameters)
    assert same(ours, reference.draw(published, parameters))
    assert ours.pixels != whole.pixels


def test_pictures_no_larger_than_a_tile_are_the_same_bits(
    split: Split, reference: Reference
) -> None:
    parameters = largest(split, reference)
    whole = split.draw(parameters)
    set_pieces(split.vae.model, Tiling(LARGE_TILE), slicing=False)
    assert same(split.draw(parameters), whole)


def test_layers_are_sliced_as_the_published_pipeline_slices_them(gallery: Gallery) -> None:
    (reference,) = (each for each in references() if each.model == LAYERED)
    split = gallery.split(reference, ElementType.FLOAT32)
    pipeline = gallery.published(reference, ElementType.FLOAT32)
    with as_it_was(split.vae.model.components["vae"]), as_it_was(pipeline.vae):
        parameters = largest(split, reference)
        together = split.draw(parameters)
        assert set_pieces(split.vae.model, None, slicing=True) == 0
        pipeline.vae.enable_slicing()
        rows: list[int] = []
        decoder = split.vae.model.components["vae"].decoder
        hook = decoder.register_forward_pre_hook(lambda _, given: rows.append(len(given[0])))
        try:
            ours = split.draw(parameters)
        finally:
            hook.remove()
        assert set(rows) == {1}
        assert same(ours, reference.draw(pipeline, parameters))
        # Kernels add up in another order: 1e-6 of a pixel's range, which may tip a level over.
        levels = zip(ours.pixels, together.pixels, strict=True)
        assert max(abs(one - other) for one, other in levels) <= 1


def test_slices_are_refused_where_there_is_no_batch(split: Split, reference: Reference) -> None:
    if reference.model == LAYERED:
        set_pieces(split.vae.model, None, slicing=True)
        return
    with pytest.raises(ConfigurationError, match=r"slicing: is true; .* one picture"):
        set_pieces(split.vae.model, None, slicing=True)
