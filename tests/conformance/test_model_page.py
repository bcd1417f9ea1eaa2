from tools.generate_model_table import PAGE, page


def test_the_page_of_models_says_what_the_families_say() -> None:
    assert PAGE.read_text() == page()
