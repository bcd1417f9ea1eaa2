"""What the VAE service is told."""

from pydantic_settings import SettingsConfigDict

from services.domain.settings import DecodingSettings, EncodingSettings, StageSettings


class VaeSettings(StageSettings, DecodingSettings, EncodingSettings):
    """Flags, or TRIPTYCH_VAE_* in the environment."""

    model_config = SettingsConfigDict(env_prefix="TRIPTYCH_VAE_")
