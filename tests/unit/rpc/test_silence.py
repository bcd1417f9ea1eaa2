"""Peers that are gone without a word: nothing is closed, and nothing comes any more."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from services.rpc import channels
from services.rpc import server as servers
from tests.unit.rpc.serving import Unary, encoder, serving, settings
from triptych import channel as client
from triptych.v1 import encoder_service_pb2

_WAITS = ("grpc.keepalive_time_ms", "grpc.keepalive_timeout_ms", "grpc.http2.ping_timeout_ms")
ALL_ENDS = pytest.mark.parametrize("module", [channels, client], ids=["gateway", "client"])


def _sooner(options: Any) -> list[tuple[str, int]]:
    return [(name, value // 50 if name in _WAITS else value) for name, value in options]


class Working:
    """A handler that works until it is cancelled."""

    def __init__(self) -> None:
        self.began = asyncio.Event()
        self.left = asyncio.Event()

    async def handle(self, request: Any, context: Any) -> Any:
        self.began.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.left.set()


class Wire:
    """Carries bytes to a server and back, until it is cut."""

    def __init__(self, listen: str) -> None:
        self._listen = listen.removeprefix("unix:")
        self._ends: list[asyncio.StreamWriter] = []
        self.cut = False

    async def connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, there = await asyncio.open_unix_connection(self._listen)
        self._ends += [there, writer]
        await asyncio.gather(self._carry(reader, there), self._carry(answers, writer))

    async def close(self) -> None:
        for each in self._ends:
            each.close()
        await asyncio.gather(*(each.wait_closed() for each in self._ends), return_exceptions=True)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(2**16):
            if not self.cut:
                writer.write(data)
        writer.close()


@asynccontextmanager
async def _wired(listen: str, address: Path) -> AsyncIterator[Wire]:
    wire = Wire(listen)
    async with await asyncio.start_unix_server(wire.connect, address):
        try:
            yield wire
        finally:
            await wire.close()


@asynccontextmanager
async def _called(tmp_path: Path, options: Any) -> AsyncIterator[tuple[Working, Wire, Any]]:
    """A call that is under way, over a wire."""
    told, working = settings(tmp_path), Working()
    address = tmp_path / "wire"
    async with (
        asyncio.timeout(20),
        serving(told, Unary(working.handle)),
        _wired(told.listen, address) as wire,
        grpc.aio.insecure_channel(f"unix:{address}", options) as channel,
    ):
        call = encoder(channel).Encode(encoder_service_pb2.EncodeRequest(), timeout=60)
        await working.began.wait()
        yield working, wire, call


async def test_what_a_silent_caller_asked_for_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "_OPTIONS", _sooner(servers._OPTIONS))
    async with _called(tmp_path, ()) as (working, wire, _):
        wire.cut = True
        await working.left.wait()


@ALL_ENDS
async def test_a_silent_server_is_unavailable(tmp_path: Path, module: Any) -> None:
    async with _called(tmp_path, _sooner(module._OPTIONS)) as (_, wire, call):
        wire.cut = True
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
