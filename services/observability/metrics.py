"""What is counted and timed, and what it is called: every metric is declared here and nowhere else.

Recording goes through OpenTelemetry and costs next to nothing while nobody reads
(services.observability.exposition). Labels take few values, known beforehand or bounded by what is
served; prompts, tenants and ids of requests never become one.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import ClassVar, Final

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, Observation

_meter = metrics.get_meter("triptych")

# UCUM units, and the suffixes Prometheus has for them.
SECONDS: Final = "s"
BYTES: Final = "By"
RATIO: Final = "1"
_SUFFIXES: Final = {SECONDS: "_seconds", BYTES: "_bytes"}

# Upper bounds. Requests take from milliseconds (a small model) to many minutes (a video).
_REQUEST_SECONDS: Final = (
    *(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0),
    *(10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 640.0, 1280.0),
)
_STEP_SECONDS: Final = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8),
    *(1.6, 3.2, 6.4, 12.8, 25.6, 51.2),
)
_TRANSFER_SECONDS: Final = (
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    5.0,
)
_SHARES: Final = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


class Metric:
    """One metric.

    Args:
        name: in OpenTelemetry's form, without unit.
        unit: one of those above, or what is counted in braces.
        labels: names of the labels that every value carries.
        description: what it says, as a sentence.
    """

    kind: ClassVar[str]
    _ending: ClassVar[str] = ""

    def __init__(self, name: str, unit: str, labels: tuple[str, ...], description: str) -> None:
        self.name = name
        self.unit = unit
        self.labels = labels
        self.description = description
        self._expected = frozenset(labels)
        METRICS.append(self)

    @property
    def exposed_name(self) -> str:
        """What Prometheus calls it."""
        return f"{self.name.replace('.', '_')}{_SUFFIXES.get(self.unit, '')}{self._ending}"

    def _checked(self, labels: Mapping[str, str]) -> Mapping[str, str]:
        if labels.keys() != self._expected:
            raise TypeError(f"{self.name} has labels {self.labels}, not {tuple(labels)}")
        return labels


METRICS: Final[list[Metric]] = []
"""All of them, in the order they are declared."""


class Counter(Metric):
    """Only grows."""

    kind = "counter"
    _ending = "_total"

    def __init__(self, name: str, unit: str, labels: tuple[str, ...], description: str) -> None:
        super().__init__(name, unit, labels, description)
        self._instrument = _meter.create_counter(name, unit, description)

    def add(self, amount: int, **labels: str) -> None:
        """Counts so many more."""
        self._instrument.add(amount, self._checked(labels))


class Histogram(Metric):
    """How values are distributed over buckets.

    Args:
        bounds: upper bounds of the buckets; the last one has none.
    """

    kind = "histogram"

    def __init__(
        self,
        name: str,
        unit: str,
        labels: tuple[str, ...],
        description: str,
        bounds: tuple[float, ...],
    ) -> None:
        super().__init__(name, unit, labels, description)
        self.bounds = bounds
        self._instrument = _meter.create_histogram(
            name, unit, description, explicit_bucket_boundaries_advisory=bounds
        )

    def record(self, value: float, **labels: str) -> None:
        """Puts one value into its bucket."""
        self._instrument.record(value, self._checked(labels))


Reading = tuple[float, Mapping[str, str]]
"""A value and its labels."""


class _Watched(Metric):
    """Read when somebody asks, from whoever knows."""

    def __init__(self, name: str, unit: str, labels: tuple[str, ...], description: str) -> None:
        super().__init__(name, unit, labels, description)
        self._sources: list[Callable[[], Iterable[Reading]]] = []

    @contextmanager
    def watching(self, source: Callable[[], Iterable[Reading]]) -> Iterator[None]:
        """Asks a source, from whichever thread, until the block is left."""
        self._sources.append(source)
        try:
            yield
        finally:
            self._sources.remove(source)

    def _read(self, options: CallbackOptions) -> Iterable[Observation]:
        for source in tuple(self._sources):
            for value, labels in source():
                yield Observation(value, self._checked(labels))


class Gauge(_Watched):
    """What is now."""

    kind = "gauge"

    def __init__(self, name: str, unit: str, labels: tuple[str, ...], description: str) -> None:
        super().__init__(name, unit, labels, description)
        _meter.create_observable_gauge(name, [self._read], unit, description)


class WatchedCounter(_Watched):
    """Only grows, and is counted elsewhere."""

    kind = "counter"
    _ending = "_total"

    def __init__(self, name: str, unit: str, labels: tuple[str, ...], description: str) -> None:
        super().__init__(name, unit, labels, description)
        _meter.create_observable_counter(name, [self._read], unit, description)


_TASK: Final = ("stage", "task", "model")

REQUESTS_STARTED: Final = Counter(
    "triptych.requests.started", "{request}", _TASK, "Requests that were taken in."
)
REQUESTS_FINISHED: Final = Counter(
    "triptych.requests.finished",
    "{request}",
    (*_TASK, "outcome", "reason"),
    "Requests that ended: succeeded, failed (also those that were refused) or cancelled, and why.",
)
REQUEST_SECONDS: Final = Histogram(
    "triptych.request.duration",
    SECONDS,
    _TASK,
    "Requests that succeeded, from their arrival in this process to its answer.",
    _REQUEST_SECONDS,
)
QUEUE_SECONDS: Final = Histogram(
    "triptych.queue.duration",
    SECONDS,
    _TASK,
    "Waiting for the stage to begin a request.",
    _REQUEST_SECONDS,
)
RUN_SECONDS: Final = Histogram(
    "triptych.run.duration",
    SECONDS,
    _TASK,
    "Encoding, denoising or decoding itself.",
    _REQUEST_SECONDS,
)
TRANSFER_SECONDS: Final = Histogram(
    "triptych.transfer.duration",
    SECONDS,
    _TASK,
    "Writing and reading a request's tensors.",
    _TRANSFER_SECONDS,
)
TRANSFERRED_BYTES: Final = Counter(
    "triptych.transferred",
    BYTES,
    (*_TASK, "direction"),
    "Tensors that were written to or read from the tensor store.",
)
QUEUED_REQUESTS: Final = Gauge(
    "triptych.queued.requests", "{request}", ("stage", "model"), "Requests that wait."
)
RESIDENT_REQUESTS: Final = Gauge(
    "triptych.resident.requests",
    "{request}",
    ("stage", "model"),
    "Requests that are worked on; a denoiser holds the state of several.",
)
QUEUE_LIMIT: Final = Gauge(
    "triptych.queue.limit.requests",
    "{request}",
    ("stage", "model"),
    "Requests that may wait; more are refused.",
)
BACKLOG_SECONDS: Final = Gauge(
    "triptych.denoiser.backlog",
    SECONDS,
    ("model",),
    "Estimated time for all steps that are left, of resident and of waiting requests.",
)
HELD_BYTES: Final = Gauge(
    "triptych.denoiser.held",
    BYTES,
    ("model",),
    "What each rank keeps of all resident requests between two steps, as measured.",
)
RESERVED_BYTES: Final = Gauge(
    "triptych.denoiser.reserved",
    BYTES,
    ("model",),
    "What each rank keeps of them at most, as estimated before they began.",
)
RESIDENT_LIMIT_BYTES: Final = Gauge(
    "triptych.denoiser.resident.limit",
    BYTES,
    ("model",),
    "Up to where requests are let in by what is reserved; absent without `--max-resident-bytes`.",
)
STEP_SECONDS: Final = Histogram(
    "triptych.denoiser.step.duration",
    SECONDS,
    ("model", "method", "decision"),
    "Denoising steps, by the request's cache and by what it reused: computed, reused, or mixed.",
    _STEP_SECONDS,
)
FORWARDS: Final = Counter(
    "triptych.denoiser.forwards",
    "{forward}",
    ("model", "method", "branch", "decision"),
    "Forwards of requests with a cache, computed or reused, for each guidance branch.",
)
REUSED_RATIO: Final = Histogram(
    "triptych.denoiser.reused.ratio",
    RATIO,
    ("model", "method"),
    "The share of a request's forwards that were reused, 0 to 1; of requests with a cache.",
    _SHARES,
)
RANKS_READY: Final = Gauge(
    "triptych.ranks.ready", "{rank}", ("model",), "Ranks that hold their model; 0 while rebuilding."
)
RANK_RESTARTS: Final = WatchedCounter(
    "triptych.ranks.restarts",
    "{restart}",
    ("model",),
    "How often the ranks were rebuilt after one of them died or hung.",
)
RESUMPTIONS: Final = Counter(
    "triptych.denoiser.resumptions",
    "{request}",
    ("model", "decision"),
    "Requests that went on from a checkpoint, after their ranks were lost or from another denoiser,"
    " their cache restored or recomputed.",
)
READY_REPLICAS: Final = Gauge(
    "triptych.gateway.ready.replicas",
    "{replica}",
    ("stage", "model"),
    "Replicas that a gateway can give requests to, of each model that is there or was in the last"
    " hour.",
)
INCOMPATIBLE_REPLICAS: Final = Gauge(
    "triptych.gateway.incompatible.replicas",
    "{replica}",
    ("stage", "model"),
    "Replicas that hold another model under the name: other weights, or another release's limits.",
)
LEDGER_JOBS: Final = Gauge(
    "triptych.ledger.jobs",
    "{job}",
    ("state",),
    "What the ledger of jobs holds: jobs that are queued, are held (worked on, or to be tried again"
    " later) or have ended, and tombstones. The same at every gateway that shares it.",
)
LEDGER_USED_BYTES: Final = Gauge(
    "triptych.ledger.used", BYTES, (), "The size of all of them, about; likewise."
)
LEDGER_LIMIT_BYTES: Final = Gauge(
    "triptych.ledger.limit", BYTES, (), "How large that may be, by `--max-job-bytes`."
)
LEDGER_REACHABLE: Final = Gauge(
    "triptych.ledger.reachable", "{ledger}", (), "1 while this gateway reaches its ledger, else 0."
)
PREVIEWS_DRAWN: Final = Counter(
    "triptych.previews.drawn", "{preview}", ("model",), "Previews that the VAE drew."
)
_BOUND: Final = ("store", "bound")
STORE_USED_BYTES: Final = Gauge(
    "triptych.store.used",
    BYTES,
    _BOUND,
    "What is used of each thing that limits the tensor store.",
)
STORE_LIMIT_BYTES: Final = Gauge(
    "triptych.store.limit",
    BYTES,
    _BOUND,
    "How much of it there is; absent for a server without `maxmemory`.",
)
CONDITIONING_LOOKUPS: Final = Counter(
    "triptych.conditioning.lookups",
    "{lookup}",
    ("stage", "model", "part", "outcome"),
    "Prompts, negative prompts and images that were looked up in the conditioning cache.",
)
CONDITIONING_CACHE_ENTRIES: Final = Gauge(
    "triptych.conditioning.cache.entries",
    "{entry}",
    ("store",),
    "What the conditioning cache holds, of all processes that share it.",
)
CONDITIONING_CACHE_USED_BYTES: Final = Gauge(
    "triptych.conditioning.cache.used",
    BYTES,
    ("store",),
    "How large that is.",
)
CONDITIONING_CACHE_LIMIT_BYTES: Final = Gauge(
    "triptych.conditioning.cache.limit",
    BYTES,
    ("store",),
    "How large it may be.",
)
