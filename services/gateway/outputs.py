"""What the stages gave of a job."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from services.domain.checkpoint import Checkpoint
from services.domain.job_event import JobEvent
from services.domain.stages import Denoised, Encoded, EncodedImage
from services.domain.tensor_ref import INLINE
from services.jobs.journal import Journal
from services.jobs.record import OutputSlot
from services.rpc.stored import DecodedArtifact, Output, event_bytes, output_bytes, output_of
from triptych.domain.cache_statistics import joined
from triptych.domain.conditioning_reuse import summed
from triptych.domain.generation import GenerationParameters
from triptych.domain.generation_result import GenerationResult
from triptych.domain.receipt import Receipt
from triptych.domain.stage_timing import StageTask, StageTiming

_ENCODED: Final = (StageTask.ENCODE_PROMPT, StageTask.ENCODE_IMAGES)


class Outputs:
    """Holds them, and notes each in the job's journal, so that they outlive this process.

    Args:
        journal: of the job.
        stored: what stages gave under earlier claims.
    """

    def __init__(self, journal: Journal, stored: Mapping[OutputSlot, bytes]) -> None:
        self._journal = journal
        self._held: dict[OutputSlot, Output] = {}
        for slot, data in stored.items():
            if (output := output_of(data)) is not None:
                self._held[slot] = output

    @property
    def store(self) -> str | None:
        """Identity of the tensor store that the job's tensors are in; None without any."""
        for output in self._held.values():
            match output:
                case Encoded(conditioning=ref) | EncodedImage(latents=ref) | Denoised(latents=ref):
                    if ref.store != INLINE:
                        return ref.store
        return None

    def encoded(self, index: int = 0) -> Encoded | None:
        """The conditioning of a result."""
        output = self._held.get(OutputSlot(StageTask.ENCODE_PROMPT, index))
        return output if isinstance(output, Encoded) else None

    def image(self, index: int) -> EncodedImage | None:
        """The latents of an input image."""
        output = self._held.get(OutputSlot(StageTask.ENCODE_IMAGES, index))
        return output if isinstance(output, EncodedImage) else None

    def images(self) -> list[EncodedImage]:
        """The latents of all input images that are there, in order."""
        found = {
            slot.index: output
            for slot, output in self._held.items()
            if isinstance(output, EncodedImage)
        }
        return [found[index] for index in sorted(found)]

    def images_timing(self) -> StageTiming:
        """Where the time of all input images together went."""
        timings = [image.timing for image in self.images()]
        return replace(
            timings[0],
            queue_seconds=sum(timing.queue_seconds for timing in timings),
            run_seconds=sum(timing.run_seconds for timing in timings),
            transfer_seconds=sum(timing.transfer_seconds for timing in timings),
            total_seconds=sum(timing.total_seconds for timing in timings),
        )

    def checkpoint(self, index: int) -> Checkpoint | None:
        """What the denoising loop of a result goes on from, before its latents are finished."""
        output = self._held.get(OutputSlot(StageTask.DENOISE, index))
        return output if isinstance(output, Checkpoint) else None

    def steps(self, parameters: GenerationParameters) -> list[int]:
        """Of each result of a job, how many steps are in what is there of it."""
        found = []
        for index in range(parameters.num_images):
            checkpoint = self.checkpoint(index)
            begun = 0 if checkpoint is None else checkpoint.completed_steps
            found.append(begun if self.denoised(index) is None else parameters.steps)
        return found

    def denoised(self, index: int) -> Denoised | None:
        """The finished latents of a result."""
        output = self._held.get(OutputSlot(StageTask.DENOISE, index))
        return output if isinstance(output, Denoised) else None

    def decoded(self, index: int) -> DecodedArtifact | None:
        """The artifact of a result."""
        output = self._held.get(OutputSlot(StageTask.DECODE, index))
        return output if isinstance(output, DecodedArtifact) else None

    async def put(self, slot: OutputSlot, output: Output, events: Sequence[JobEvent] = ()) -> None:
        """Takes in what a stage gave, with what is told of it.

        Raises:
            ClaimLost, Cancelled: the job is no longer this process's.
        """
        self.hold(slot, output)
        await self._journal.advance(slot, output_bytes(output), [*map(event_bytes, events)])

    def hold(self, slot: OutputSlot, output: Output) -> None:
        """Takes in what nobody else could go on from."""
        self._held[slot] = output

    def drop(self, task: StageTask) -> None:
        """Forgets what a task gave, to have it made again; prompt and images are encoded at once.

        What was made of it stays: made again, it would have the same bits.
        """
        tasks = _ENCODED if task in _ENCODED else (task,)
        self._held = {slot: each for slot, each in self._held.items() if slot.task not in tasks}

    def result(
        self, parameters: GenerationParameters, total_seconds: float, receipt: Receipt
    ) -> GenerationResult:
        """What came of the job, once every stage has given what it had to.

        Args:
            parameters: of the job.
            total_seconds: since it was handed in.
            receipt: what its bytes depend on.
        """
        encoded, images = self.encoded(), self.images()
        indices = range(parameters.num_images)
        denoised = [latents for index in indices if (latents := self.denoised(index))]
        decoded = [media for index in indices if (media := self.decoded(index))]
        assert encoded is not None
        reuse = [encoded.conditioning_reuse, *(image.conditioning_reuse for image in images)]
        return GenerationResult(
            parameters=parameters,
            artifacts=tuple(output.artifact for output in decoded),
            stage_timings=(
                encoded.timing,
                *([self.images_timing()] if images else ()),
                *(latents.timing for latents in denoised),
                *(media.timing for media in decoded),
            ),
            latents_checksum_xxh3=denoised[0].latents_checksum_xxh3,
            total_seconds=total_seconds,
            written_prompt=encoded.written_prompt,
            cache_statistics=joined([output.cache_statistics for output in denoised]),
            parallel_degrees=denoised[0].degrees,
            conditioning_reuse=summed(itertools.chain.from_iterable(reuse)),
            receipt=receipt,
        )
