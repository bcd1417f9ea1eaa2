import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from denoiser_service.rank.parallel.attention import attention_with_weight


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("key_heads", [4, 2])
def test_weights_are_the_log_sums_of_the_scores(dtype: torch.dtype, key_heads: int) -> None:
    query = torch.randn(2, 4, 5, 8, dtype=dtype)
    key, value = (torch.randn(2, key_heads, 7, 8, dtype=dtype) for _ in range(2))
    attended, weight = attention_with_weight(query, key, value, scale=0.3)
    right = scaled_dot_product_attention(query, key, value, scale=0.3, enable_gqa=True)
    assert torch.equal(attended, right)
    scores = query.float() @ key.float().repeat_interleave(4 // key_heads, dim=1).mT * 0.3
    assert weight.dtype == torch.float32
    assert torch.allclose(weight, scores.logsumexp(dim=-1), atol=1e-5)
