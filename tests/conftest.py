import gc
import os
from pathlib import Path

import pytest
from hypothesis import settings

from services.observability.logs import configure

# Machines that run the tests are shared: slowness is no failure. Examples are kept in memory only,
# so that a run never depends on an earlier one.
settings.register_profile("triptych", deadline=None, database=None)
settings.load_profile("triptych")

# As the services' processes log. Without it structlog renders every local variable of a traceback,
# tensors included: most of the time of tests that let something fail.
configure("tests", "info", "json")

# Large libraries make so many objects that the collector would look through again and again.
gc.disable()

TESTS = Path(__file__).parent
# Processes do not look for modules where they are started; some of the tests' are there.
# An empty entry would stand for the directory they are started in.
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, (str(TESTS.parent), os.environ.get("PYTHONPATH")))
)
LARGEST_FIRST = ("system", "conformance", "fuzz", "integration", "unit", "architecture", "deploy")
SHARED_CLUSTERS = {"split_cluster", "fused_cluster"}


def pytest_collection_finish() -> None:
    """Leaves what was imported and collected to itself; it stays until the end."""
    gc.freeze()
    gc.enable()


# Before xdist writes the groups into the tests' ids.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Function]) -> None:
    """Says which tests go to the same process of several: what they share is made there once."""
    for item in items:
        item.add_marker(pytest.mark.xdist_group(_group(item)))
    # What takes longest begins first, and the processes end at about the same time.
    items.sort(key=lambda item: ("studio" not in item.fixturenames, _reach(item)))


def _reach(item: pytest.Function) -> int:
    return LARGEST_FIRST.index(item.path.relative_to(TESTS).parts[0])


def _group(item: pytest.Function) -> str:
    fixtures = set(getattr(item, "fixturenames", ()))
    callspec = getattr(item, "callspec", None)
    given = {} if callspec is None else callspec.params
    if fixtures & SHARED_CLUSTERS or SHARED_CLUSTERS & {str(value) for value in given.values()}:
        return "the shared clusters"
    file = item.path.relative_to(TESTS)
    # A model is built, loaded and drawn with once, whichever files its tests are in.
    if file.parts[0] == "conformance" and "reference" in given and "ranks" not in fixtures:
        return f"conformance {given['reference'].model}"
    # All models are in one cluster of a type, which takes long to load.
    if "studio" in fixtures:
        return f"every model in {given['dtype']}"
    return str(file)
