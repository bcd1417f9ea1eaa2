"""The variables that the processes know."""

from denoiser_service.rank.process import RankSettings
from denoiser_service.service.settings import DenoiserSettings
from encoder_service.settings import EncoderSettings
from services.gateway.settings import GatewaySettings
from vae_service.settings import VaeSettings


def known_variables() -> set[str]:
    return {
        f"{settings.model_config['env_prefix']}{field}".upper()
        for settings in (
            GatewaySettings,
            EncoderSettings,
            DenoiserSettings,
            RankSettings,
            VaeSettings,
        )
        for field in settings.model_fields
    }
