import gc
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.torch_setup.memory import import_lasting


@pytest.fixture(autouse=True)
def thawed() -> Iterator[None]:
    yield
    gc.unfreeze()


def module_in(directory: Path, name: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (directory / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(directory)
    monkeypatch.delitem(sys.modules, name, raising=False)


def test_the_collector_rests_during_an_import_and_looks_through_nothing_it_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module_in(tmp_path, "large_one", "import gc\nresting = not gc.isenabled()", monkeypatch)
    frozen = gc.get_freeze_count()
    module = import_lasting("large_one")
    assert module.resting
    assert gc.isenabled()
    assert gc.get_freeze_count() > frozen
    assert not any(each is module.__dict__ for each in gc.get_objects())


def test_what_is_there_already_is_not_imported_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module_in(tmp_path, "large_two", "", monkeypatch)
    module = import_lasting("large_two")
    frozen = gc.get_freeze_count()
    made_since: list[object] = []
    assert import_lasting("large_two") is module
    assert gc.get_freeze_count() <= frozen
    assert any(each is made_since for each in gc.get_objects())


def test_an_import_that_fails_leaves_the_collector_at_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module_in(tmp_path, "large_three", "raise ImportError('no such device')", monkeypatch)
    with pytest.raises(ImportError, match="no such device"):
        import_lasting("large_three")
    assert gc.isenabled()


def test_a_collector_that_was_off_stays_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module_in(tmp_path, "large_four", "", monkeypatch)
    gc.disable()
    try:
        import_lasting("large_four")
        assert not gc.isenabled()
    finally:
        gc.enable()
