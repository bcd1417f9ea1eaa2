"""One reply out of those of all ranks. Pure; loads no torch."""

from collections.abc import Sequence
from dataclasses import replace

from denoiser_service.rank.commands import (
    Abort,
    Command,
    Failed,
    Finished,
    Prepared,
    RankReady,
    Reply,
    Saved,
    Step,
    Stepped,
)
from services.domain.checkpoint import Checkpoint
from triptych.domain.cache_statistics import BranchDecision


class RanksDisagree(Exception):
    """Ranks that were told the same did not do the same: none can be trusted any more."""


def reconcile(command: Command, replies: Sequence[Reply]) -> Reply:
    """What a group of ranks answers to one command, in the words of its first rank.

    Args:
        command: what every rank was told.
        replies: of every rank, in the order of their numbers; at least one.

    Returns:
        The first Failed reply if any rank failed.

    Raises:
        RanksDisagree: they do not answer the same; the message says where.
    """
    failures = [reply for reply in replies if isinstance(reply, Failed)]
    if failures:
        # Each takes a request in, and stores its latents, for itself, and may fail at that alone.
        # Steps are made together, and who holds a request is the same everywhere.
        if len(failures) < len(replies) and isinstance(command, Step | Abort):
            raise RanksDisagree(f"some failed to {command.kind}: {failures[0].message}")
        return failures[0]
    check_alike(replies)
    first = replies[0]
    if isinstance(first, Prepared | Stepped):
        # Ranks with different branches may keep different caches; room is needed for the largest.
        kept = max(reply.held_bytes for reply in replies if isinstance(reply, Prepared | Stepped))
        first = first.model_copy(update={"held_bytes": kept})
    if isinstance(first, Prepared):
        recomputes = any(reply.recomputes for reply in replies if isinstance(reply, Prepared))
        return first.model_copy(update={"recomputes": recomputes})
    if isinstance(first, Saved) and first.checkpoint is not None:
        saved = [reply.checkpoint for reply in replies if isinstance(reply, Saved)]
        whole = Checkpoint.of_ranks([each for each in saved if each is not None])
        return first.model_copy(update={"checkpoint": whole})
    if isinstance(first, Stepped):
        stepped = [reply for reply in replies if isinstance(reply, Stepped)]
        decisions = _united([reply.decisions for reply in stepped])
        news: tuple[Checkpoint | None, ...] = ()
        if any(reply.saved for reply in stepped):
            # Each writes in its own time.
            news = tuple(reply.saved[0] if reply.saved else None for reply in stepped)
        return first.model_copy(update={"decisions": decisions, "saved": news})
    return first


def check_alike(replies: Sequence[Reply]) -> None:
    """Raises RanksDisagree unless every rank said the same."""
    first = replies[0]
    for number, reply in enumerate(replies[1:], start=1):
        if _agreed(reply) != _agreed(first):
            raise RanksDisagree(f"rank {number} said {reply!r}; rank 0 said {first!r}")


def _agreed(reply: Reply) -> Reply:
    """The part of a reply that every rank must give alike."""
    match reply:
        case RankReady():
            return reply.model_copy(update={"pid": 0})
        case Prepared():
            own = {"run_seconds": 0, "transfer_seconds": 0, "held_bytes": 0, "recomputes": False}
            return reply.model_copy(update=own)
        case Stepped():
            its = {"seconds": 0, "decisions": (), "held_bytes": 0, "preview": None, "saved": ()}
            return reply.model_copy(update=its)
        case Saved():
            bare = reply.checkpoint and replace(reply.checkpoint, parts=(), store_seconds=0.0)
            return reply.model_copy(update={"checkpoint": bare, "transfer_seconds": 0})
        case Finished():
            # The checksum stays: every rank holds the whole latents, and they are equal.
            untimed = {"run_seconds": 0, "transfer_seconds": 0, "latents": None}
            return reply.model_copy(update=untimed)
    return reply


def _united(
    decisions: Sequence[tuple[BranchDecision, ...]],
) -> tuple[BranchDecision, ...]:
    """Every branch's decision once: ranks that share a branch share its decision."""
    united: dict[str, BranchDecision] = {}
    for number, of_rank in enumerate(decisions):
        for decision in of_rank:
            known = united.setdefault(decision.branch, decision)
            if known.reused != decision.reused:
                raise RanksDisagree(
                    f"rank {number} decided {decision!r}; another rank decided {known!r}"
                )
    return tuple(united.values())
