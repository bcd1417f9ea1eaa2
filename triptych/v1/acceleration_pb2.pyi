from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ScmMaskPolicy(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SCM_MASK_POLICY_UNSPECIFIED: _ClassVar[ScmMaskPolicy]
    SCM_MASK_POLICY_SLOW: _ClassVar[ScmMaskPolicy]
    SCM_MASK_POLICY_MEDIUM: _ClassVar[ScmMaskPolicy]
    SCM_MASK_POLICY_FAST: _ClassVar[ScmMaskPolicy]
    SCM_MASK_POLICY_ULTRA: _ClassVar[ScmMaskPolicy]

class ScmPolicy(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SCM_POLICY_UNSPECIFIED: _ClassVar[ScmPolicy]
    SCM_POLICY_DYNAMIC: _ClassVar[ScmPolicy]
    SCM_POLICY_STATIC: _ClassVar[ScmPolicy]

class CacheDecision(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CACHE_DECISION_UNSPECIFIED: _ClassVar[CacheDecision]
    CACHE_DECISION_COMPUTED: _ClassVar[CacheDecision]
    CACHE_DECISION_REUSED: _ClassVar[CacheDecision]
SCM_MASK_POLICY_UNSPECIFIED: ScmMaskPolicy
SCM_MASK_POLICY_SLOW: ScmMaskPolicy
SCM_MASK_POLICY_MEDIUM: ScmMaskPolicy
SCM_MASK_POLICY_FAST: ScmMaskPolicy
SCM_MASK_POLICY_ULTRA: ScmMaskPolicy
SCM_POLICY_UNSPECIFIED: ScmPolicy
SCM_POLICY_DYNAMIC: ScmPolicy
SCM_POLICY_STATIC: ScmPolicy
CACHE_DECISION_UNSPECIFIED: CacheDecision
CACHE_DECISION_COMPUTED: CacheDecision
CACHE_DECISION_REUSED: CacheDecision

class Acceleration(_message.Message):
    __slots__ = ("none", "tea_cache", "cache_dit", "replica_class")
    NONE_FIELD_NUMBER: _ClassVar[int]
    TEA_CACHE_FIELD_NUMBER: _ClassVar[int]
    CACHE_DIT_FIELD_NUMBER: _ClassVar[int]
    REPLICA_CLASS_FIELD_NUMBER: _ClassVar[int]
    none: NoCache
    tea_cache: TeaCache
    cache_dit: CacheDit
    replica_class: str
    def __init__(self, none: _Optional[_Union[NoCache, _Mapping]] = ..., tea_cache: _Optional[_Union[TeaCache, _Mapping]] = ..., cache_dit: _Optional[_Union[CacheDit, _Mapping]] = ..., replica_class: _Optional[str] = ...) -> None: ...

class NoCache(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class TeaCache(_message.Message):
    __slots__ = ("rel_l1_thresh", "coefficients", "compute_last_step")
    REL_L1_THRESH_FIELD_NUMBER: _ClassVar[int]
    COEFFICIENTS_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_LAST_STEP_FIELD_NUMBER: _ClassVar[int]
    rel_l1_thresh: float
    coefficients: _containers.RepeatedScalarFieldContainer[float]
    compute_last_step: bool
    def __init__(self, rel_l1_thresh: _Optional[float] = ..., coefficients: _Optional[_Iterable[float]] = ..., compute_last_step: _Optional[bool] = ...) -> None: ...

class CacheDit(_message.Message):
    __slots__ = ("fn_compute_blocks", "bn_compute_blocks", "max_warmup_steps", "max_cached_steps", "max_continuous_cached_steps", "residual_diff_threshold", "taylorseer", "scm", "warmup_interval", "max_accumulated_residual_diff_threshold")
    FN_COMPUTE_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    BN_COMPUTE_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    MAX_WARMUP_STEPS_FIELD_NUMBER: _ClassVar[int]
    MAX_CACHED_STEPS_FIELD_NUMBER: _ClassVar[int]
    MAX_CONTINUOUS_CACHED_STEPS_FIELD_NUMBER: _ClassVar[int]
    RESIDUAL_DIFF_THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    TAYLORSEER_FIELD_NUMBER: _ClassVar[int]
    SCM_FIELD_NUMBER: _ClassVar[int]
    WARMUP_INTERVAL_FIELD_NUMBER: _ClassVar[int]
    MAX_ACCUMULATED_RESIDUAL_DIFF_THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    fn_compute_blocks: int
    bn_compute_blocks: int
    max_warmup_steps: int
    max_cached_steps: int
    max_continuous_cached_steps: int
    residual_diff_threshold: float
    taylorseer: TaylorSeer
    scm: StepsComputationMask
    warmup_interval: int
    max_accumulated_residual_diff_threshold: float
    def __init__(self, fn_compute_blocks: _Optional[int] = ..., bn_compute_blocks: _Optional[int] = ..., max_warmup_steps: _Optional[int] = ..., max_cached_steps: _Optional[int] = ..., max_continuous_cached_steps: _Optional[int] = ..., residual_diff_threshold: _Optional[float] = ..., taylorseer: _Optional[_Union[TaylorSeer, _Mapping]] = ..., scm: _Optional[_Union[StepsComputationMask, _Mapping]] = ..., warmup_interval: _Optional[int] = ..., max_accumulated_residual_diff_threshold: _Optional[float] = ...) -> None: ...

class TaylorSeer(_message.Message):
    __slots__ = ("order",)
    ORDER_FIELD_NUMBER: _ClassVar[int]
    order: int
    def __init__(self, order: _Optional[int] = ...) -> None: ...

class StepsComputationMask(_message.Message):
    __slots__ = ("mask_policy", "policy")
    MASK_POLICY_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    mask_policy: ScmMaskPolicy
    policy: ScmPolicy
    def __init__(self, mask_policy: _Optional[_Union[ScmMaskPolicy, str]] = ..., policy: _Optional[_Union[ScmPolicy, str]] = ...) -> None: ...

class ParallelDegrees(_message.Message):
    __slots__ = ("ulysses_degree", "ring_degree", "cfg_degree")
    ULYSSES_DEGREE_FIELD_NUMBER: _ClassVar[int]
    RING_DEGREE_FIELD_NUMBER: _ClassVar[int]
    CFG_DEGREE_FIELD_NUMBER: _ClassVar[int]
    ulysses_degree: int
    ring_degree: int
    cfg_degree: int
    def __init__(self, ulysses_degree: _Optional[int] = ..., ring_degree: _Optional[int] = ..., cfg_degree: _Optional[int] = ...) -> None: ...

class BranchDecision(_message.Message):
    __slots__ = ("branch", "decision", "signal")
    BRANCH_FIELD_NUMBER: _ClassVar[int]
    DECISION_FIELD_NUMBER: _ClassVar[int]
    SIGNAL_FIELD_NUMBER: _ClassVar[int]
    branch: str
    decision: CacheDecision
    signal: float
    def __init__(self, branch: _Optional[str] = ..., decision: _Optional[_Union[CacheDecision, str]] = ..., signal: _Optional[float] = ...) -> None: ...

class BranchStatistics(_message.Message):
    __slots__ = ("branch", "computed_forwards", "reused_forwards")
    BRANCH_FIELD_NUMBER: _ClassVar[int]
    COMPUTED_FORWARDS_FIELD_NUMBER: _ClassVar[int]
    REUSED_FORWARDS_FIELD_NUMBER: _ClassVar[int]
    branch: str
    computed_forwards: int
    reused_forwards: int
    def __init__(self, branch: _Optional[str] = ..., computed_forwards: _Optional[int] = ..., reused_forwards: _Optional[int] = ...) -> None: ...

class CacheStatistics(_message.Message):
    __slots__ = ("computed_forwards", "reused_forwards", "estimated_speedup", "branches", "realised_speedup")
    COMPUTED_FORWARDS_FIELD_NUMBER: _ClassVar[int]
    REUSED_FORWARDS_FIELD_NUMBER: _ClassVar[int]
    ESTIMATED_SPEEDUP_FIELD_NUMBER: _ClassVar[int]
    BRANCHES_FIELD_NUMBER: _ClassVar[int]
    REALISED_SPEEDUP_FIELD_NUMBER: _ClassVar[int]
    computed_forwards: int
    reused_forwards: int
    estimated_speedup: float
    branches: _containers.RepeatedCompositeFieldContainer[BranchStatistics]
    realised_speedup: float
    def __init__(self, computed_forwards: _Optional[int] = ..., reused_forwards: _Optional[int] = ..., estimated_speedup: _Optional[float] = ..., branches: _Optional[_Iterable[_Union[BranchStatistics, _Mapping]]] = ..., realised_speedup: _Optional[float] = ...) -> None: ...
