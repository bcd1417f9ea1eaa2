"""Opens models, fetching from the Hugging Face hub what one stage needs of them.

The hub's own client does the work, so its cache and environment count: HF_HOME, HF_HUB_OFFLINE,
HF_TOKEN, HF_ENDPOINT.
"""

import errno
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from httpx2 import HTTPError
from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils.tqdm import disable_progress_bars

from services.domain.model_source import HubModel
from services.model_files.directory import INDEX, MANIFEST, ROOT_CONFIGURATION, ModelDirectory
from services.observability.logs import get_logger
from triptych.domain.errors import ConfigurationError

# By their names: a wildcard would fetch configurations, or weights, of every stage.
_SAYS_WHAT_IT_IS = (INDEX, ROOT_CONFIGURATION)
# RuntimeError is what the client's own transfer protocol raises.
_FETCHING_FAILED = (HTTPError, OSError, ValueError, RuntimeError)
_WHERE_TOKENS_GO = " (HF_TOKEN, or `hf auth login`)"
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)

_log = get_logger(__name__)


def open_model(
    source: Path | HubModel, patterns: Callable[[ModelDirectory], Iterable[str]]
) -> ModelDirectory:
    """Opens a model; what it lacks of a model on the hub, it fetches into the hub's cache.

    Args:
        source: a directory, of which nothing is fetched, or a model on the hub.
        patterns: what one stage reads of a model, told from the model's index alone.

    Raises:
        ConfigurationError: it cannot be fetched, or what is there says not what it is.
    """
    if isinstance(source, Path):
        return ModelDirectory(source)
    _quieten_the_client()
    began = time.monotonic()
    snapshot = _fetch(source, (*_SAYS_WHAT_IT_IS, MANIFEST))
    if not any((snapshot / name).is_file() for name in _SAYS_WHAT_IT_IS):
        raise ConfigurationError(
            f"model: {source} has no {' and no '.join(_SAYS_WHAT_IT_IS)};"
            " served are models in the published diffusers layout"
        )
    directory = ModelDirectory(snapshot, source.name)
    # A snapshot's folder is called by its commit, so that a branch which moves meanwhile does not
    # give the weights of one commit and the index of another.
    commit = snapshot.name
    _log.info("model found on the hub", model=str(source), commit=commit)
    _fetch(replace(source, revision=commit), patterns(directory))
    seconds = round(time.monotonic() - began, 3)
    _log.info("model fetched", model=str(source), commit=commit, seconds=seconds)
    return directory


def _quieten_the_client() -> None:
    # Logs are lines: a bar that redraws itself would end up between them.
    disable_progress_bars()
    # It tells every address it asks, and those of large files are signed: whoever reads such a line
    # may fetch the file of a gated model.
    logging.getLogger("httpx2").setLevel(logging.WARNING)


def _fetch(model: HubModel, patterns: Iterable[str]) -> Path:
    try:
        return Path(
            snapshot_download(
                model.repository,
                revision=model.revision,
                allow_patterns=list(patterns),
                local_files_only=model.offline,
            )
        )
    except _FETCHING_FAILED as error:
        raise ConfigurationError(f"model: {_explanation(model, error)}") from error


def _explanation(model: HubModel, error: BaseException) -> str:
    """What is wrong and what to do, from the first of an error's causes that tells."""
    for cause in _causes(error):
        if explained := _refusal(model, cause) or _obstacle(model, cause):
            return explained
    return f"{model} cannot be fetched: {error!r}"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    # The client wraps what happened in an error about the cache.
    told = error
    while error is not None:
        if not isinstance(error, LocalEntryNotFoundError):
            yield error
        error = error.__cause__
    if isinstance(told, LocalEntryNotFoundError):
        yield told


def _refusal(model: HubModel, cause: BaseException) -> str | None:
    """The hub was asked and said no."""
    match cause:
        case GatedRepoError():
            return (
                f"{model} is gated; accept its terms on {constants.ENDPOINT}/{model.repository}"
                f" and give a token of that account{_WHERE_TOKENS_GO}"
            )
        case RepositoryNotFoundError():
            return (
                f"{model} is neither a directory here nor a repository on {constants.ENDPOINT};"
                f" a private one needs a token{_WHERE_TOKENS_GO}"
            )
        case RevisionNotFoundError():
            return (
                f"{model.repository} has no revision {model.revision or constants.DEFAULT_REVISION}"
                f" on {constants.ENDPOINT}"
            )
        case HfHubHTTPError(response=response):
            advice = (
                f"; it may need a token{_WHERE_TOKENS_GO}"
                if response.status_code in (401, 403)
                else ""
            )
            return (
                f"{model} cannot be fetched: {response.url} answered {response.status_code}{advice}"
            )
        case HFValidationError():
            return f"{model} is neither a directory here nor the name of a repository: {cause}"
    return None


def _obstacle(model: HubModel, cause: BaseException) -> str | None:
    """The hub was not reached, or what it sent could not be kept."""
    match cause:
        case OfflineModeIsEnabled() | LocalEntryNotFoundError():
            return (
                f"{model} is not, or not whole, in the cache, {constants.HF_HUB_CACHE}, and the hub"
                " may not be asked; fetch it once without --offline and HF_HUB_OFFLINE"
            )
        case HTTPError():
            return f"{model} cannot be fetched: {constants.ENDPOINT} is not reached ({cause!r})"
        case OSError(errno=number) if number in _DISK_FULL:
            return (
                f"{model} does not fit on the disk with the cache, {constants.HF_HUB_CACHE};"
                " make room, or have the cache elsewhere (HF_HOME)"
            )
        case OSError(errno=int(), strerror=why):
            return f"{model} cannot be kept in the cache, {constants.HF_HUB_CACHE}: {why}"
    return None
