"""Latents that are not finished, to small pictures."""

from services.domain.stages import DrawPreviewRequest, PreviewPicture
from services.loaded_models.stage_model import StageModel
from services.model_ports.stages import VaeModel
from services.tensor_store.tensor_store import TensorStore
from triptych.domain.errors import InvalidRequest
from triptych.domain.model import MediaFormat
from vae_service.latent_colours import LatentColours, sample_pictures
from vae_service.media import encode_media


class PreviewStage:
    """Computes with the VAE once, to fit a map to it; draws with that alone.

    Args:
        model: the VAE.
        store: where the latents come from.
    """

    def __init__(self, model: StageModel[VaeModel], store: TensorStore) -> None:
        self._loaded = model
        self._store = store
        self._colours: LatentColours | None = None

    @property
    def fitted(self) -> bool:
        """Whether the map is known."""
        return self._colours is not None

    def fit(self) -> None:
        """Fits the map; for the VAE's thread. The same weights give the same map.

        Raises:
            TriptychError: what the VAE makes of the samples is not finite.
        """
        latents, pixels = self._loaded.model.reconstruct(sample_pictures())
        self._colours = LatentColours.fit(latents.float().cpu(), pixels.float().cpu())

    def draw(self, request: DrawPreviewRequest) -> PreviewPicture:
        """Draws and releases the latents; for any thread, once the map is fitted.

        Raises:
            ModelNotFound: another model's request.
            InvalidRequest: outside the model's limits, or latents that are no such VAE's.
            TensorNotFound: newer ones took their place.
            TriptychError: latents that are not finite.
        """
        assert self._colours is not None
        self._loaded.check(request.parameters)
        identity = {"tenant": request.tenant, "request_id": request.request_id}
        with self._store.get(request.latents, **identity) as tensors:
            if tensors.keys() != {"latents"}:
                raise InvalidRequest.of("latents", f"are {', '.join(sorted(tensors))}")
            picture = self._colours.picture(tensors["latents"])
        self._store.release(request.latents)
        return PreviewPicture(encode_media([picture], MediaFormat.PNG, None), *picture.size)
