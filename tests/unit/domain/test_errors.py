from google.rpc import code_pb2

from triptych.domain import errors


def _tree(root: type[errors.TriptychError]) -> list[type[errors.TriptychError]]:
    return [root, *(each for child in root.__subclasses__() for each in _tree(child))]


def test_every_error_has_a_canonical_status() -> None:
    for each in _tree(errors.TriptychError):
        assert code_pb2.Code.Value(each.status) > 0


def test_every_error_is_in_the_tree_at_the_top_of_its_file() -> None:
    assert errors.__doc__ is not None
    for each in _tree(errors.TriptychError):
        assert each.__name__ in errors.__doc__


def test_what_is_worth_repeating_says_when() -> None:
    for each in _tree(errors.TriptychError):
        repeatable = each.status in ("RESOURCE_EXHAUSTED", "UNAVAILABLE")
        assert (each.retry_after_seconds is not None) == repeatable, each


def test_no_two_errors_share_a_reason() -> None:
    own = [each for each in _tree(errors.TriptychError) if each is not errors.RemoteFailure]
    reasons = [each.reason for each in own]
    assert sorted(set(reasons)) == sorted(reasons)


def test_an_unknown_model_is_told_what_is_served() -> None:
    error = errors.ModelNotFound("mona", ["painter", "draftsman"])
    assert str(error) == "model: 'mona' is not served here; served models: draftsman, painter"
