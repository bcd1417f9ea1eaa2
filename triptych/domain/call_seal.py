"""Signatures of administrative calls: who makes one shows that it knows the cluster's secret."""

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Callable
from typing import Final

from triptych.domain.errors import CallRefused

SIGNATURE_METADATA: Final = "triptych-signature"
ADMINISTRATIVE_METHODS: Final = frozenset(
    {
        "/triptych.v1.StageService/Drain",
        "/triptych.v1.TensorStoreService/Release",
        "/triptych.v1.DenoiserService/Cancel",
    }
)
"""What only those may call who know the secret."""

WINDOW_SECONDS: Final = 60.0
"""How old a signature may be, and how far the clocks of two hosts may be apart."""

_SIGNATURE: Final = re.compile(r"([0-9]{1,12}):([0-9a-f]{32}):([0-9a-f]{64})")
# Begins no JSON, as the signatures of tensor references do, and is no other tag of the secret's.
_PURPOSE: Final = b"administrative call"


class CallSeal:
    """Signs calls, and refuses those that were not signed, or not just now, or were made before.

    Args:
        secret: the cluster's.
        clock: seconds since the epoch.
    """

    def __init__(self, secret: str, *, clock: Callable[[], float] = time.time) -> None:
        self._key = secret.encode()
        self._clock = clock
        # Of calls that were let pass, by when they are too old to be made again.
        self._seen: dict[str, float] = {}

    def sign(self, method: str, arguments: bytes) -> str:
        """What to send along as SIGNATURE_METADATA.

        Args:
            method: as on the wire, "/package.Service/Method".
            arguments: the request, serialised.
        """
        when, nonce = str(int(self._clock())), secrets.token_hex(16)
        return f"{when}:{nonce}:{self._mac(method, arguments, when, nonce)}"

    def check(self, method: str, arguments: bytes, signature: str) -> None:
        """Compares in constant time.

        Raises:
            CallRefused: it is not this cluster's, is too old, or came before.
        """
        found = _SIGNATURE.fullmatch(signature)
        if found is None:
            raise CallRefused(f"{method} must be signed with the cluster's secret")
        when, nonce, mac = found.groups()
        if not hmac.compare_digest(self._mac(method, arguments, when, nonce), mac):
            raise CallRefused(f"{method}: the signature is not this cluster's")
        now = self._clock()
        if abs(now - int(when)) > WINDOW_SECONDS:
            raise CallRefused(
                f"{method}: the signature is from {int(when)}, and it is {int(now)} here; allowed"
                f" are {WINDOW_SECONDS:g} s between them"
            )
        self._forget(now)
        if nonce in self._seen:
            raise CallRefused(f"{method}: the signature was used before")
        self._seen[nonce] = now + 2 * WINDOW_SECONDS

    def _forget(self, now: float) -> None:
        """What is too old; the oldest come first."""
        while self._seen:
            nonce, until = next(iter(self._seen.items()))
            if until > now:
                return
            del self._seen[nonce]

    def _mac(self, method: str, arguments: bytes, when: str, nonce: str) -> str:
        signed = hmac.new(self._key, digestmod=hashlib.sha256)
        for part in (_PURPOSE, method.encode(), arguments, when.encode(), nonce.encode()):
            signed.update(b"%d:" % len(part))
            signed.update(part)
        return signed.hexdigest()
