"""Certificates and keys, read from files, as both ends of a connection are told of them."""

from dataclasses import dataclass
from pathlib import Path

from triptych.domain.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """What one end shows and trusts.

    Attributes:
        cert_file: PEM certificate chain to show; None for none.
        key_file: its PEM private key.
        ca_file: PEM certificates that the other end's must be signed by; None for the system's, or,
            at a server, for not asking clients for one.
    """

    cert_file: Path | None = None
    key_file: Path | None = None
    ca_file: Path | None = None

    @property
    def read(self) -> tuple[bytes | None, bytes | None, bytes | None]:
        """Certificate, key and trusted certificates.

        Raises:
            ConfigurationError: a file cannot be read.
        """
        return _read(self.cert_file), _read(self.key_file), _read(self.ca_file)

    @property
    def changed(self) -> tuple[int, ...]:
        """Differs once a file was replaced."""
        files = (self.cert_file, self.key_file, self.ca_file)
        return tuple(each.stat().st_mtime_ns for each in files if each is not None)


def _read(path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"tls: cannot read {path}: {error.strerror}") from error
