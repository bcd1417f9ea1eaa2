"""TLS and mutual TLS, for servers and for channels."""

import grpc

from services.domain.tls import TlsFiles
from services.observability.logs import get_logger
from triptych.domain.errors import ConfigurationError

_log = get_logger(__name__)


def server_credentials(files: TlsFiles) -> grpc.ServerCredentials:
    """Shows a certificate, and with `ca_file` asks clients for theirs. Replaced files count.

    Raises:
        ConfigurationError: a file cannot be read, or they are not a certificate and its key.
    """
    rotation = _Rotation(files)
    return grpc.dynamic_ssl_server_credentials(
        rotation.first,
        rotation.fetch,  # type: ignore[arg-type]  # None is allowed, and means no change
        require_client_authentication=files.ca_file is not None,
    )


def channel_credentials(files: TlsFiles) -> grpc.ChannelCredentials:
    """Trusts those that `ca_file` signed, or the system's, and shows a certificate if it has one.

    Raises:
        ConfigurationError: a file cannot be read.
    """
    certificate, key, trusted = files.read
    return grpc.ssl_channel_credentials(trusted, key, certificate)


class _Rotation:
    """Looks at every handshake whether the files were replaced."""

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self._seen = files.changed
        self.first = self._configuration()

    def fetch(self) -> grpc.ServerCertificateConfiguration | None:
        """The new configuration; None while nothing changed, or what came is not usable."""
        try:
            if (now := self._files.changed) == self._seen:
                return None
            self._seen = now
            configuration = self._configuration()
        except (OSError, ConfigurationError) as error:
            # A rotation in progress: the next handshake looks again.
            _log.warning("certificate not replaced", cause=str(error))
            return None
        _log.info("certificate replaced")
        return configuration

    def _configuration(self) -> grpc.ServerCertificateConfiguration:
        certificate, key, trusted = self._files.read
        assert certificate is not None
        assert key is not None
        return grpc.ssl_server_certificate_configuration([(key, certificate)], trusted)
