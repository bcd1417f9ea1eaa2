import pytest

from triptych.cli.head_start import starts_cluster


@pytest.mark.parametrize(
    ("line", "starts"),
    [
        ("up --model models/demo", True),
        ("generate a-circle -o circle.png", True),
        ("generate a-circle -o circle.png --target 127.0.0.1:7843", False),
        ("generate a-circle -o circle.png --target=127.0.0.1:7843", False),
        ("up --launcher exec", False),
        ("up --help", False),
        ("models --target 127.0.0.1:7843", False),
        ("", False),
    ],
)
def test_only_commands_that_start_a_cluster_by_fork_begin_to_import_for_it(
    line: str, starts: bool
) -> None:
    assert starts_cluster(line.split()) is starts
