"""The address of a store: a scheme, a place, and options."""

from dataclasses import dataclass
from typing import Annotated, Self, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from services.domain.errors import ConfigurationError

Options = TypeVar("Options", bound="StoreOptions")


class StoreOptions(BaseModel):
    """What may follow a store's place in its URL."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class LocalOptions(StoreOptions):
    """Options of the stores of one host.

    Attributes:
        quota_bytes: what one process may hold.
        verify: whether readers compare the checksum of all bytes. They compare the header always.
            Off by default: the memory of one host does not lose bytes on the way, and the pass over
            them takes as long as a copy. Of a plain copy's speed, putting and getting 64 MiB
            through shared memory reached 0.75 without it and 0.35 with it; see benchmarks/.
    """

    quota_bytes: Annotated[int, Field(gt=0)] = 1 << 30
    verify: bool = False


@dataclass(frozen=True, slots=True)
class StoreUrl:
    """A parsed store URL, `<scheme>://<host><path>?<option>=<value>&...`."""

    text: str
    scheme: str
    host: str
    path: str
    query: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Splits a URL; what its parts mean is the backend's to say.

        Raises:
            ConfigurationError: it cannot be split.
        """
        try:
            parts = urlsplit(text)
        except ValueError as error:
            raise ConfigurationError(f"store: {text!r} is not a URL: {error}") from error
        if parts.fragment:
            raise ConfigurationError(f"store: {text!r} has a fragment; allowed is none")
        return cls(text, parts.scheme, parts.netloc, unquote(parts.path), parts.query)

    def refuse_location(self) -> None:
        """Raises ConfigurationError if the URL names a host or a path."""
        if self.host or self.path:
            raise ConfigurationError(
                f"store: {self.text!r} names a place; allowed is {self.scheme}:?<option>=<value>"
            )

    def options(self, model: type[Options]) -> Options:
        """Reads the options.

        Raises:
            ConfigurationError: one is unknown, repeated, or has a value that is not allowed.
        """
        try:
            pairs = parse_qsl(self.query, keep_blank_values=True, strict_parsing=bool(self.query))
        except ValueError as error:
            raise ConfigurationError(f"store: {self.text!r}: {error}") from error
        given = dict(pairs)
        if len(given) < len(pairs):
            raise ConfigurationError(f"store: {self.text!r} has an option twice")
        try:
            return model.model_validate(given)
        except ValidationError as error:
            problems = "; ".join(
                f"{'.'.join(map(str, each['loc']))}={given.get(str(each['loc'][0]))}: {each['msg']}"
                for each in error.errors()
            )
            allowed = ", ".join(model.model_fields)
            raise ConfigurationError(
                f"store: {self.text!r}: {problems}; options are {allowed}"
            ) from error
