"""The address of a store: a scheme, a place, and options."""

import re
from dataclasses import dataclass
from typing import Annotated, Self, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from triptych.domain.errors import ConfigurationError

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


# Of users before a host, whatever they contain, and of an option that somebody might think of.
_PASSWORD = re.compile(r"(?<=//).*(?=@)|(?<=[?&]password=)[^&#]*", re.DOTALL)


@dataclass(frozen=True, slots=True)
class StoreUrl:
    """A parsed store URL, `<scheme>://<host><path>?<option>=<value>&...`.

    Attributes:
        text: of the whole, without what may be a password: that has no place there, and is told to
            nobody.
    """

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
        shown = _PASSWORD.sub("***", text)
        try:
            parts = urlsplit(text)
        except ValueError:
            # What it says of its own quotes the URL.
            raise ConfigurationError(f"store: {shown!r} is not a URL") from None
        if parts.fragment:
            raise ConfigurationError(f"store: {shown!r} has a fragment; allowed is none")
        return cls(shown, parts.scheme, parts.netloc, unquote(parts.path), parts.query)

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
        except ValueError:
            raise ConfigurationError(
                f"store: {self.text!r} has an option that is not <option>=<value>"
            ) from None
        given = dict(pairs)
        if len(given) < len(pairs):
            raise ConfigurationError(f"store: {self.text!r} has an option twice")
        try:
            return model.model_validate(given)
        except ValidationError as error:
            shown = given | ({"password": "***"} if "password" in given else {})
            problems = "; ".join(
                f"{each['loc'][0]}={shown.get(str(each['loc'][0]))}: {each['msg']}"
                for each in error.errors()
            )
            allowed = ", ".join(model.model_fields)
            raise ConfigurationError(
                f"store: {self.text!r}: {problems}; options are {allowed}"
            ) from error
