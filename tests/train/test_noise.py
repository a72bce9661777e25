from __future__ import annotations

import torch

from ling.train.batches import Batch
from ling.train.noise import Dropout, TokenNumbers, random_bits


def batch(rows=2, length=8, first=0):
    x = torch.zeros(rows, length, dtype=torch.long)
    return Batch(x, x, x.float(), first_row=first)


def test_bits_are_those_of_token_and_channel():
    numbers = torch.tensor([0, 1, 1 << 32, (5 << 32) + 3])
    bits = random_bits(numbers, 64, 7)
    assert bits.shape == (4, 64)
    assert bits.unique().numel() == bits.numel()
    assert torch.equal(random_bits(numbers[2:], 32, 7), bits[2:, :32])
    assert not torch.equal(random_bits(numbers, 64, 8), bits)


def test_bits_are_even_and_independent():
    bits = random_bits(torch.arange(400), 500, -3)
    assert bits.min() >= 0
    assert bits.max() < 1 << 31
    for place in range(31):
        ones = (bits >> place & 1).double()
        assert abs(ones.mean() - 0.5) < 0.005
        for a, b in ((ones[1:], ones[:-1]), (ones[:, 1:], ones[:, :-1])):
            assert abs((a - 0.5).mul(b - 0.5).mean()) < 0.003


def test_the_share_is_left_out_and_the_rest_scaled():
    tokens = TokenNumbers()
    drop, x = Dropout(0.25, "1:a", tokens), torch.ones(16, 4096)
    assert drop(x) is x  # outside of training
    with tokens.of(batch(), torch.flatten):
        out = drop(x)
        other = Dropout(0.25, "1:b", tokens)(x)
    assert torch.equal(out.unique(), torch.tensor([0.0, 1 / 0.75]))
    assert abs((out == 0).float().mean() - 0.25) < 0.01
    both = ((out == 0) & (other == 0)).float().mean()
    assert abs(both - 0.0625) < 0.01


def test_a_row_has_its_noise_in_any_micro_batch():
    tokens = TokenNumbers()
    drop, x = Dropout(0.5, "1:a", tokens), torch.ones(16, 32)
    with tokens.of(batch(), torch.flatten):
        whole = drop(x)
    with tokens.of(batch(rows=1, first=1), torch.flatten):
        assert torch.equal(drop(x[:8]), whole[8:])
    with tokens.of(batch(), lambda n: n[:, ::2].flatten()):
        assert torch.equal(drop(x[:8]), whole[::2])


def test_what_is_computed_again_has_the_noise_it_had():
    tokens = TokenNumbers()
    drop, x = Dropout(0.5, "1:a", tokens), torch.ones(16, 32)
    with tokens.of(batch(), torch.flatten):
        first, again = drop(x), tokens.kept(drop)
    with tokens.of(batch(first=2), torch.flatten):
        assert not torch.equal(drop(x), first)
        assert torch.equal(again(x), first)
    assert torch.equal(again(x), first)
