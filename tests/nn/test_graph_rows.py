"""The form of the encoder for graphs computes what the padded one does."""

from __future__ import annotations

import pytest
import torch

from hepset.nn.attention import TransformerEncoder
from hepset.nn.graph_rows import GraphRows

MASK = torch.tensor([[1, 0, 1, 1], [0, 0, 0, 0], [1, 1, 1, 1], [0, 1, 0, 0]], dtype=torch.bool)


@pytest.mark.parametrize("mask", [MASK, torch.zeros_like(MASK), MASK[3:]])
@pytest.mark.parametrize("biased", [False, True])
def test_padding_may_hold_anything(mask: torch.Tensor, biased: bool) -> None:
    torch.manual_seed(1)
    encoder = TransformerEncoder(8, 2, 2, hidden=16, layer_scale=0.5).eval()
    x = torch.randn(*mask.shape, 8)
    bias = torch.randn(len(mask), 2, 4, 4) if biased else None
    x = torch.where(mask[..., None], x, torch.nan)
    with torch.no_grad():
        expected = encoder(x, mask, bias=bias).objects
        found = encoder.for_export()(x, mask, bias=bias).objects
    assert torch.allclose(found[mask], expected[mask], atol=1e-6)


def test_the_attention_is_as_wide_as_the_longest_event() -> None:
    rows = GraphRows.of(MASK[[0, 3]], trim=True)
    assert rows.rows.tolist() == [0, 2, 3, 5, 0]
    assert rows.table.tolist() == [[0, 1, 2], [3, 3, 3]]
    assert rows.back[:4].tolist() == [[0, 0], [0, 1], [0, 2], [1, 0]]
    assert (rows.bias[:, 0, 0] == 0).tolist() == [[True] * 3, [True, False, False]]
    assert GraphRows.of(MASK, trim=False).table.shape == (4, 4)
