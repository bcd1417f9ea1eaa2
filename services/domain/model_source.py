"""Where a model comes from: a directory here, or a repository of the Hugging Face hub."""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator

_HUB_MODEL = re.compile(
    r"(?P<repository>\w[\w.-]{0,95}/\w[\w.-]{0,95})(@(?P<revision>\w(?!.*\.\.)[\w./-]*))?", re.ASCII
)


@dataclass(frozen=True, slots=True)
class HubModel:
    """A model on the hub.

    Attributes:
        repository: for example "Qwen/Qwen-Image".
        revision: a branch, tag or commit; None for the repository's main branch.
        offline: whether only what was fetched before may be used.
    """

    repository: str
    revision: str | None = None
    offline: bool = False

    @property
    def name(self) -> str:
        """What requests call it unless the model itself says otherwise."""
        return self.repository.partition("/")[2]

    def __str__(self) -> str:
        return self.repository if self.revision is None else f"{self.repository}@{self.revision}"


def parse_model_source(given: object) -> object:
    """Reads what an operator calls a model; what is no text stays as it is.

    A directory that exists is that directory, even if a repository has the same name. What cannot
    be a repository either is a path, for whoever opens it to refuse.
    """
    if not isinstance(given, str):
        return given
    named = _HUB_MODEL.fullmatch(given)
    if named is None or Path(given).is_dir():
        return Path(given)
    return HubModel(named["repository"], named["revision"])


ModelSource = Annotated[Path | HubModel, BeforeValidator(parse_model_source)]
"""As settings take it: "models/demo", "Qwen/Qwen-Image" or "Qwen/Qwen-Image@v1"."""


def taken(source: Path | HubModel, *, offline: bool) -> Path | HubModel:
    """The same source; a model on the hub knows afterwards whether the hub may be asked."""
    return replace(source, offline=offline) if isinstance(source, HubModel) else source
