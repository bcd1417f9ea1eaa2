"""A model whose steps are shared by several ranks."""

from diffusers.utils.constants import DIFFUSERS_ATTN_BACKEND

from denoiser_service.rank.acceleration.blocks import ALL_HERE
from denoiser_service.rank.acceleration.session import Session, open_session
from denoiser_service.rank.parallel.attention import SequenceAttention
from denoiser_service.rank.parallel.branches import SpreadBranches
from denoiser_service.rank.parallel.mesh import RankMesh
from denoiser_service.rank.parallel.sequence import SharedSequence, narrow_attentions
from services.loaded_models.stage_model import StageModel
from services.model_ports.stages import CachingDenoiserModel, CachingState, DenoiserModel
from triptych.domain.acceleration import Cache
from triptych.domain.errors import ConfigurationError

# Only this one calls what SequenceAttention takes over.
_ATTENTION = "native"


class ParallelModel:
    """Prepares a model's blocks once, and every request's forwards and branches.

    Args:
        model: as loaded, on every rank the same.
        mesh: this rank's place.

    Raises:
        ConfigurationError: the model's steps cannot be shared by these ranks.
    """

    def __init__(self, model: StageModel[DenoiserModel], mesh: RankMesh) -> None:
        denoiser, support = model.model, model.loaded.model.capabilities.parallel_support
        violations = list(mesh.degrees.violations(support))
        if violations or not isinstance(denoiser, CachingDenoiserModel):
            problems = "; ".join(
                f"{violation.field} {violation.description}" for violation in violations
            )
            raise ConfigurationError(f"ranks of {model.loaded.model.name}: {problems}")
        if DIFFUSERS_ATTN_BACKEND != _ATTENTION:
            raise ConfigurationError(
                f"DIFFUSERS_ATTN_BACKEND: is {DIFFUSERS_ATTN_BACKEND}; with several ranks it is"
                f" {_ATTENTION}"
            )
        self._model: CachingDenoiserModel = denoiser
        self._mesh = mesh
        self._attention = SequenceAttention()
        lists = denoiser.block_lists
        for transformer in denoiser.components.values():
            for name in lists.names:
                for block in transformer.get_submodule(name).children():
                    narrow_attentions(self._attention, lists, block)

    def mesh_for(self, state: CachingState) -> RankMesh:
        """How the ranks share a request's steps."""
        return self._mesh.for_branches(state.branch_count)

    def accelerate(self, cache: Cache, state: CachingState) -> Session:
        """Puts a request's caches and ranks between its loop and the transformers."""
        mesh = self.mesh_for(state)
        tokens = ALL_HERE if mesh.sequence.group is None else SharedSequence(mesh, self._attention)
        session = open_session(self._model, cache, state.steps_by_component, tokens)
        state.acceleration = session
        (transformer, *_) = self._model.components.values()
        (parameter, *_) = transformer.parameters()
        state.branches = SpreadBranches(mesh.cfg, parameter.device)
        return session
