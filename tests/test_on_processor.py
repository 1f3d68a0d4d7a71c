"""Convolutions with fewer multiplications: the plain sum by hand and by PyTorch, and what takes them; memory that is kept."""

import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fsdlib.on_processor import Quick, as_without_this, filtering, quicken, winograd


def test_filtering_gives_the_weighted_neighbours_exactly_for_any_points():
    generator = np.random.default_rng(0)
    for points in [(0, 1, -1), (0, 1, -1, 2, -2), (0, 2, 3, 5, 7, 11)]:
        of_input, of_weight, of_output = filtering(tuple(map(Fraction, points)))
        inputs, weights = generator.integers(-9, 9, len(points) + 1), generator.integers(-9, 9, 3)
        found = of_output @ ((of_weight @ weights) * (of_input @ inputs))
        assert np.allclose(found, np.correlate(inputs, weights, "valid"))


@pytest.mark.parametrize(
    "channels, made, height, width", [(1, 1, 4, 4), (5, 3, 8, 20), (128, 128, 64, 64), (2, 7, 132, 4)]
)
def test_a_convolution_is_that_of_pytorch_within_rounding(channels, made, height, width):
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(2, channels, height, width, generator=generator)
    weight, bias = torch.randn(made, channels, 3, 3, generator=generator), torch.randn(made, generator=generator)
    exact = F.conv2d(maps.double(), weight.double(), bias.double(), padding=1)
    found = winograd(maps, weight, bias)
    assert found.shape == exact.shape and found.is_contiguous()
    assert (found - exact).abs().max() < 2e-5 * exact.abs().max()


def test_one_of_a_batch_is_as_it_would_be_alone():
    maps, weight = torch.randn(3, 8, 16, 16), torch.randn(4, 8, 3, 3)
    assert torch.equal(winograd(maps, weight)[1:2], winograd(maps[1:2], weight))


def test_only_plain_ones_are_exchanged_and_weights_stay():
    kept = torch.nn.Conv2d(128, 128, 3, padding=1)
    others = [
        torch.nn.Conv2d(128, 128, 3, stride=2, padding=1),
        torch.nn.Conv2d(128, 128, 3),
        torch.nn.Conv2d(128, 128, 1),
        torch.nn.Conv2d(128, 128, 3, padding=1, groups=2),
        torch.nn.Conv2d(128, 128, 3, padding=1, padding_mode="circular"),
    ]
    model = torch.nn.Sequential(kept, *others)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    quicken(model)
    assert [type(part) is Quick for part in model] == [True, *[False] * len(others)]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_it_is_taken_where_it_pays_and_the_plain_sum_elsewhere():
    layer = torch.nn.Conv2d(128, 128, 3, padding=1)
    plain = torch.nn.Conv2d(128, 128, 3, padding=1)
    plain.load_state_dict(layer.state_dict())
    quicken(torch.nn.Sequential(layer))
    large, small, odd = (torch.randn(1, 128, side, side) for side in (64, 32, 65))
    with torch.no_grad():
        assert torch.equal(layer(large), winograd(large, layer.weight, layer.bias))
        assert not torch.equal(layer(large), plain(large))
        for maps in (small, odd):
            assert torch.equal(layer(maps), plain(maps))
        half = layer.half(), plain.half()
        assert torch.equal(half[0](small.half()), half[1](small.half()))
    layer.float(), plain.float()
    assert torch.equal(layer(large), plain(large))  # with gradients
    layer(large).sum().backward()
    assert layer.weight.grad is not None


def test_without_it_convolutions_are_pytorchs_until_the_end_of_the_block():
    model = torch.nn.Sequential(torch.nn.Conv2d(128, 128, 3, padding=1))
    quicken(model)
    with pytest.raises(KeyError), as_without_this(model):
        assert type(model[0]) is torch.nn.Conv2d
        raise KeyError
    assert type(model[0]) is Quick


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only glibc can be told")
def test_kept_memory_is_not_asked_for_again():
    """New pages of a chain of large arrays, counted by the system, in a process of its own: none once memory is kept."""
    code = """
import resource, torch
from fsdlib.on_processor import keep_freed_memory
def pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    array = torch.ones(2**24)
    for _ in range(8):
        array = array + 1
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
pages(); usual = pages()
assert keep_freed_memory()
kept = [pages() for _ in range(6)][-1]
assert keep_freed_memory(False)
print(usual, kept, pages())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    usual, kept, again = map(int, done.stdout.split())
    assert kept < usual / 10 and again > usual / 10
