"""Any value of any noun that a table carries, found as the table finds its rules."""

from dataclasses import replace
from functools import cache
from typing import Any, get_args, get_type_hints

from google.protobuf.descriptor import FieldDescriptor
from hypothesis import strategies as st

from services.artifacts.artifact import ArtifactKey, ArtifactKind
from services.domain.tensor_ref import TensorRef
from tests.unit.domain.examples import TENSOR_REF
from triptych.codec.table import Table
from triptych.codec.values import Nested, Words
from triptych.domain.acceleration import CacheDit, CacheSupport
from triptych.domain.cache_statistics import BranchStatistics
from triptych.domain.model import ModelInfo

_ENDS = {
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
}
# Binary fractions, so that equality is exact.
_seconds = st.integers(0, 2**20).map(lambda eighths: eighths / 8)
_texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)


@cache
def nouns_of(table: Table[Any, Any]) -> st.SearchStrategy[Any]:
    """Every field of a noun, or not where it may be left out."""
    if table.noun is TensorRef:
        return st.just(TENSOR_REF)
    if table.noun is ArtifactKey:
        return st.builds(ArtifactKey, _texts, st.sampled_from(ArtifactKind), _texts)
    values = {name: nouns_of(inline) for name, inline in table._inline.items()}
    values |= {rule.name: _values_of(rule, table) for rule in table._rules}
    if table.noun is ModelInfo:
        values["name"] = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True)
    return st.builds(table._build, **values).map(_as_it_can_be_told)


def _values_of(rule: Any, table: Table[Any, Any]) -> st.SearchStrategy[Any]:
    if rule.members:
        any_member = st.one_of(nouns_of(member._table) for _, member in rule.members.values())
        return any_member | st.none() if rule.hint.optional else any_member
    one = _one_value(rule, table)
    if rule.hint.repeated:
        # Nothing tells none from None.
        least = 1 if rule.hint.optional else 0
        one = st.lists(one, min_size=least, max_size=2).map(tuple)
    return one | st.none() if rule.hint.optional else one


def _one_value(rule: Any, table: Table[Any, Any]) -> st.SearchStrategy[Any]:
    if isinstance(rule.value, Words):
        return st.sampled_from(list(rule.value._numbers))
    if isinstance(rule.value, Nested):
        inner = rule.value._table
        return nouns_of(inner) if isinstance(inner, Table) else _seconds
    hint = get_type_hints(table.noun)[rule.name]
    kinds = get_args(hint) or (hint,)
    if rule.leaf.cpp_type in _ENDS:
        lowest, highest = _ENDS[rule.leaf.cpp_type]
        bounds = rule.hint.ends
        lowest = lowest if bounds[0] is None else bounds[0]
        # Where nothing tells a zero from nothing, a noun that may have nothing has no zero.
        if rule.hint.optional and not rule.leaf.has_presence:
            lowest = max(lowest, 1)
        return st.integers(lowest, highest if bounds[1] is None else bounds[1])
    if bool in kinds:
        return st.booleans()
    if rule.leaf.cpp_type == FieldDescriptor.CPPTYPE_DOUBLE:
        return st.floats(allow_nan=False, allow_infinity=False)
    return st.binary(max_size=8) if rule.leaf.type == FieldDescriptor.TYPE_BYTES else _texts


def _as_it_can_be_told(noun: Any) -> Any:
    match noun:
        case BranchStatistics():
            # The message also has the sums over (at most two) branches, in as many bits.
            return replace(
                noun,
                computed_forwards=noun.computed_forwards // 2,
                reused_forwards=noun.reused_forwards // 2,
            )
        case CacheDit(scm_mask_policy=None):
            return replace(noun, scm_policy=None)
        case CacheDit(scm_policy=None):
            return replace(noun, scm_mask_policy=None)
        case CacheSupport(tea_cache_coefficients=None):
            return replace(noun, coefficients_source=CacheSupport().coefficients_source)
    return noun
