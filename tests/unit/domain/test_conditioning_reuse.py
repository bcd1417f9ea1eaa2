from triptych.domain.conditioning_reuse import ConditioningPart, ConditioningReuse, summed


def test_what_was_looked_up_is_summed_by_kind() -> None:
    image, prompt = ConditioningPart.IMAGE, ConditioningPart.PROMPT
    looked_up = [
        ConditioningReuse(image, 1, 1),
        ConditioningReuse(prompt, 1, 0),
        ConditioningReuse(image, 2, 1),
    ]
    assert summed(looked_up) == (ConditioningReuse(prompt, 1, 0), ConditioningReuse(image, 3, 2))
    assert summed([]) == ()
