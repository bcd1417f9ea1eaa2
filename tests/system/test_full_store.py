"""A tensor store without room refuses one request, not the service."""

from pathlib import Path

import pytest

from tests.system.lone_encoder import lone_encoder
from triptych.domain.errors import TriptychError


async def test_a_full_store_refuses_until_something_is_released(tmp_path: Path) -> None:
    # Room for one prompt's conditioning, but not for two.
    store = f"shm://{tmp_path}/store?quota_bytes=12288"
    async with lone_encoder(tmp_path, store) as encoder:
        await encoder.encode("a")
        with pytest.raises(TriptychError, match="quota_bytes") as refusal:
            await encoder.encode("b")
        assert refusal.value.status == "RESOURCE_EXHAUSTED"
        assert refusal.value.reason == "STORE_FULL"
        assert refusal.value.retry_after_seconds is not None
        assert len(list(tmp_path.glob("store/*/live/*"))) == 1

        assert await encoder.release("a") == 1
        assert list(tmp_path.glob("store/*/live/*")) == []
        await encoder.encode("b")
    assert encoder.process.returncode == 0
