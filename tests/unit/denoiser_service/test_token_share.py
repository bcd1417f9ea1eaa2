import torch
from hypothesis import given
from hypothesis import strategies as st

from services.model_ports.blocks import TokenShare

PARTS = st.integers(1, 7)
TOKENS = st.integers(0, 40)


@given(parts=PARTS, tokens=TOKENS)
def test_shares_are_all_tokens_in_their_order(parts: int, tokens: int) -> None:
    whole = torch.arange(tokens)
    shares = [TokenShare(parts, index) for index in range(parts)]
    assert torch.equal(torch.cat([share.of(whole, 0) for share in shares]), whole)
    assert [len(share.of(whole, 0)) for share in shares] == shares[0].lengths(tokens)
    for share in shares:
        assert (
            share.of(whole, 0).tolist()[:1] == [share.before(tokens)][: share.of(whole, 0).numel()]
        )


@given(parts=PARTS, tokens=TOKENS)
def test_shares_differ_by_one_token_at_most(parts: int, tokens: int) -> None:
    lengths = TokenShare(parts, 0).lengths(tokens)
    assert max(lengths) - min(lengths) <= 1


@given(parts=PARTS, prompt=TOKENS, drawn=TOKENS)
def test_of_two_kinds_of_tokens_each_is_shared_out_by_itself(
    parts: int, prompt: int, drawn: int
) -> None:
    whole = torch.arange(prompt + drawn)
    for index in range(parts):
        share = TokenShare(parts, index, prompt)
        expected = torch.cat([share.of(whole[:prompt], 0), share.of(whole[prompt:], 0)])
        assert torch.equal(share.of_joint(whole, 0), expected)
