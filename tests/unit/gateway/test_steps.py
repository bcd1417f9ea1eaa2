from services.gateway.steps import Steps


def test_a_step_is_news_once_and_counts_once() -> None:
    steps = Steps([0], 0)
    assert [steps.take(0, step) for step in (1, 2, 1, 2, 3)] == [True, True, False, False, True]
    assert steps.completed == 3
    assert steps.repeated(0, 1) == 2


def test_of_one_result_what_was_told_before_is_no_news() -> None:
    steps = Steps([4], 6)
    assert [steps.take(0, step) for step in (5, 6, 7)] == [False, False, True]
    assert steps.completed == 7


def test_of_several_results_those_that_are_stored_count_to_the_end() -> None:
    steps = Steps([40, 16], 60)
    for step in range(17, 41):
        assert steps.take(1, step)
        assert steps.completed >= 60
    assert steps.completed == 80
