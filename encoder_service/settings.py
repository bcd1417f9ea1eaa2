"""What the encoder service is told."""

from pydantic_settings import SettingsConfigDict

from services.domain.settings import EncodingSettings, StageSettings


class EncoderSettings(StageSettings, EncodingSettings):
    """Flags, or TRIPTYCH_ENCODER_* in the environment."""

    model_config = SettingsConfigDict(env_prefix="TRIPTYCH_ENCODER_")
