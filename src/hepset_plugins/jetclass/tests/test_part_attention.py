"""Attention by head and of the class token, against torch's own; pairs in training, in doubles."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from hepset_jetclass.part import pair_training
from hepset_jetclass.part.attention import Projections, attend, attend_by_head, read_tokens
from hepset_jetclass.part.embedding import PairEmbedding
from hepset_jetclass.part.pair_training import embed_in_training

WIDTH, HEADS, SIZE = 12, 3, 4


def around(seed: int = 1) -> Projections:
    torch.manual_seed(seed)
    shapes = [(3, HEADS, SIZE, WIDTH), (3, HEADS, SIZE), (WIDTH, WIDTH), (WIDTH,)]
    return Projections(*(torch.randn(shape).double().requires_grad_() for shape in shapes))


def bias_of(counts: list[int], tokens: int) -> tuple[Tensor, Tensor]:
    mask = torch.arange(tokens) < torch.tensor(counts)[:, None]
    values = torch.randn(len(counts), HEADS, tokens, tokens).double()
    return torch.where(mask[:, None, None], values, float("-inf")), mask


@pytest.mark.parametrize("tokens", [1, 5, 16, 19])
def test_attention_by_head_is_torchs_attention_with_all_its_gradients(tokens: int) -> None:
    x = torch.randn(4, tokens, WIDTH, dtype=torch.float64, requires_grad=True)
    bias, _ = bias_of([tokens, 1, max(1, tokens - 2), tokens], tokens)
    bias.requires_grad_()
    projections = around()
    found = []
    for function in (attend, attend_by_head):
        attended = function(x, bias, projections, 0.0)
        inputs = [x, bias, projections.weight, projections.offset]
        found.append([attended, *torch.autograd.grad(attended.sin().sum(), inputs)])
    with torch.no_grad():
        torch.testing.assert_close(attend_by_head(x, bias, projections, 0.0), found[0][0])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-10, rtol=1e-10)


def test_dropout_leaves_out_weights_and_keeps_the_mean() -> None:
    torch.manual_seed(3)
    x = 0.1 * torch.randn(1, 20, WIDTH).double()
    bias, _ = bias_of([20], 20)
    projections = around()
    with torch.no_grad():
        whole = attend(x, bias, projections, 0.0)
        found = torch.stack([attend_by_head(x, bias, projections, 0.3) for _ in range(2000)])
    spread = found.std(0) / len(found) ** 0.5
    assert float(((found.mean(0) - whole) / spread).abs().max()) < 5
    assert float(spread.min()) > 0


def test_a_class_token_reads_as_if_keys_and_values_were_made() -> None:
    torch.manual_seed(2)
    projections = around(4)
    _, mask = bias_of([6, 0, 3], 6)
    query, own = torch.randn(2, 3, 1, WIDTH, dtype=torch.float64)
    others = torch.randn(3, 6, WIDTH, dtype=torch.float64, requires_grad=True)
    present = functional.pad(mask, (1, 0), value=True)
    tokens = torch.cat([own, others], 1)
    q, k, v = (
        torch.einsum("btw,hdw->bhtd", source, weight) + offset[:, None]
        for source, weight, offset in zip(
            (query, tokens, tokens), projections.weight, projections.offset, strict=True
        )
    )
    logits = (q @ k.transpose(2, 3)).masked_fill(~present[:, None, None], float("-inf"))
    expected = (torch.softmax(logits, -1) @ v).transpose(1, 2).flatten(2)
    found = read_tokens(query, own, others, mask, projections)
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=1e-10)
    inputs = (others, projections.weight, projections.offset)
    for one, other in zip(
        torch.autograd.grad(found.sin().sum(), inputs),
        torch.autograd.grad(expected.sin().sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(one, other, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("hidden", [(5, 5), (4, 7, 3)])
def test_pairs_in_training_are_those_of_the_layers(
    last: bool, hidden: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pair_training, "CHUNK", 4)
    torch.manual_seed(6)
    layers = PairEmbedding(hidden, 3, last_activation=last).double().train()
    for parameter in layers.parameters():
        parameter.data += 0.3 * torch.rand_like(parameter)
    own = copy.deepcopy(layers)
    norms = [m for m in own.embed if isinstance(m, nn.BatchNorm1d)]
    norms[1].momentum = layers.embed[2].momentum = None
    rows = 4 * torch.randn(11, 4, dtype=torch.float64) - 9
    for _ in range(2):
        expected = layers.embed(rows[None].transpose(1, 2))[0].T
        convolutions = [m for m in own.embed if isinstance(m, nn.Conv1d)]
        found = embed_in_training(
            rows, norms[0], list(zip(convolutions, norms[1:], strict=True)), last_activation=last
        )
        torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-9)
        for values in (found, expected):
            values.sin().sum().backward()
    for (name, one), other in zip(own.named_parameters(), layers.parameters(), strict=True):
        assert one.grad is not None, name
        torch.testing.assert_close(one.grad, other.grad, atol=1e-9, rtol=1e-9, msg=name)
    for (name, one), other in zip(own.named_buffers(), layers.buffers(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=1e-12, msg=name)
