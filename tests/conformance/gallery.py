"""Checkpoints built once and models loaded once, in whichever order tests ask for them."""

from pathlib import Path
from typing import Any

import torch

from services.tensor_store.tensor_store import TensorStore
from tests.checkpoints import MODELS
from tests.checkpoints.stock import stock_pipeline
from tests.conformance.references import Drawn, Reference
from tests.conformance.split_stages import Split, load_split
from triptych.domain.element_type import ElementType
from triptych.domain.generation import GenerationParameters


class Gallery:
    """Of the models that references are about, split into stages and as published."""

    def __init__(self, folder: Path, store: TensorStore) -> None:
        self._folder = folder
        self._store = store
        self._splits: dict[tuple[str, ElementType], Split] = {}
        self._published: dict[tuple[str, ElementType], Any] = {}
        self._drawn: dict[tuple[str, str], Drawn] = {}

    def directory(self, reference: Reference) -> Path:
        path = self._folder / reference.model
        if not path.exists():
            build = MODELS[reference.model] if reference.build is None else reference.build
            build(path)
        return path

    def split(self, reference: Reference, dtype: ElementType) -> Split:
        key = (reference.model, dtype)
        if key not in self._splits:
            parts = self._folder / "parts" / dtype
            whole = self.directory(reference)
            self._splits[key] = load_split(whole, dtype, self._store, parts)
        return self._splits[key]

    def published(self, reference: Reference, dtype: ElementType) -> Any:
        key = (reference.model, dtype)
        if key not in self._published:
            # What diffusers does not have brings its own way to be loaded.
            load = getattr(reference.pipeline, "from_directory", stock_pipeline)
            pipeline = load(self.directory(reference), getattr(torch, dtype))
            assert type(pipeline) is reference.pipeline
            self._published[key] = pipeline
        return self._published[key]

    def drawn(self, reference: Reference, parameters: GenerationParameters) -> Drawn:
        """What the published pipeline draws in float32, drawn for the first test that asks."""
        key = (reference.model, repr(parameters))
        if key not in self._drawn:
            pipeline = self.published(reference, ElementType.FLOAT32)
            self._drawn[key] = reference.draw(pipeline, parameters)
        return self._drawn[key]
