from collections.abc import Iterator
from contextlib import closing

import pytest
import torch
from pydantic import SecretStr

from services.domain.tensor_ref import Seal
from services.tensor_store.tensor_store import open_store
from tests.conformance.gallery import Gallery
from tests.conformance.references import Reference, references
from tests.conformance.sampling import sampled
from tests.conformance.small_areas import shrink_areas


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _small_areas(monkeypatch: pytest.MonkeyPatch) -> None:
    shrink_areas(monkeypatch)


@pytest.fixture(scope="session")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gallery]:
    seal = Seal(SecretStr("a secret of at least 32 characters"))
    with closing(open_store("memory:", seal=seal, ttl_seconds=600)) as store:
        yield Gallery(tmp_path_factory.mktemp("gallery"), store)


@pytest.fixture(params=[sampled(reference) for reference in references()])
def reference(request: pytest.FixtureRequest) -> Reference:
    """Of every model, by default one of those that run the same code."""
    assert isinstance(request.param, Reference)
    return request.param
