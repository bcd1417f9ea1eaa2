"""python -m services.gateway: the public door."""

import asyncio

from services.gateway.app import GatewayApp
from services.gateway.settings import GatewaySettings
from services.rpc.process import run_process
from services.rpc.stage_clients import RemoteDenoiser, RemoteEncoder, RemoteVae
from triptych.domain.call_seal import CallSeal


async def main(settings: GatewaySettings) -> None:
    """Serves until a signal."""
    tls, seal = settings.stage_tls, CallSeal(settings.cluster_secret().get_secret_value())
    encoders = [RemoteEncoder(target, tls, seal) for target in settings.encoder]
    denoisers = [RemoteDenoiser(target, tls, seal) for target in settings.denoiser]
    vaes = [RemoteVae(target, tls, seal) for target in settings.vae]
    try:
        await GatewayApp(settings, encoders, denoisers, vaes).run()
    finally:
        await asyncio.gather(*(each.close() for each in (*encoders, *denoisers, *vaes)))


if __name__ == "__main__":
    run_process("gateway", GatewaySettings, main)
