from collections.abc import Callable
from dataclasses import replace

from services.domain.stages import RankGroupInfo
from services.observability.load import watched_load
from tests.unit.domain.examples import capacity
from triptych.domain.model import Stage

Recorded = Callable[[str], dict[frozenset[tuple[str, str]], float]]


def test_load_is_read_while_it_is_watched_and_names_the_model_the_ranks_held(
    recorded: Recorded,
) -> None:
    group = RankGroupInfo(
        ranks=2,
        generation=1,
        completed_steps=0,
        held_bytes=40,
        reserved_bytes=50,
        backlog_seconds=12.5,
    )
    load = capacity(
        Stage.DENOISER, "painter", running_requests=3, queued_requests=5, rank_group=group
    )
    here = frozenset({("stage", "denoiser"), ("model", "painter")})
    ranks = frozenset({("model", "painter")})
    with watched_load(lambda: load):
        assert recorded("triptych.queued.requests") == {here: 5}
        assert recorded("triptych.resident.requests") == {here: 3}
        assert recorded("triptych.queue.limit.requests") == {here: 8}
        assert recorded("triptych.ranks.ready") == {ranks: 2}
        assert recorded("triptych.denoiser.backlog") == {ranks: 12.5}
        assert recorded("triptych.denoiser.held") == {ranks: 40}
        assert recorded("triptych.denoiser.reserved") == {ranks: 50}
        assert recorded("triptych.denoiser.resident.limit") == {}

        rebuilding = replace(group, generation=2)
        load = replace(load, models=(), queued_requests=8, rank_group=rebuilding)
        assert recorded("triptych.queued.requests") == {here: 8}
        assert recorded("triptych.ranks.ready").get(ranks, 0) == 0
        assert recorded("triptych.ranks.restarts") == {ranks: 1}

        load = replace(load, rank_group=replace(rebuilding, max_resident_bytes=60))
        assert recorded("triptych.denoiser.resident.limit") == {ranks: 60}
    assert recorded("triptych.queued.requests") == {}


def test_stages_without_ranks_say_nothing_of_ranks(recorded: Recorded) -> None:
    load = capacity(Stage.VAE, "painter", queued_requests=2)
    with watched_load(lambda: load):
        assert recorded("triptych.queued.requests") != {}
        assert recorded("triptych.ranks.ready") == {}
