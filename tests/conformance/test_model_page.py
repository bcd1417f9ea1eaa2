import pytest

from tools.generate_model_table import PAGE, page


@pytest.fixture
def _small_areas() -> None:
    """The page is about pictures of their usual sizes."""


def test_the_page_of_models_says_what_the_families_say() -> None:
    assert PAGE.read_text() == page()
