"""What makes large models quicker on a processor: convolutions with fewer multiplications, and memory that is kept.

No stage of the method, and none depends on this: the same sums in another order, the same arrays in the same places.
"""

import ctypes
from contextlib import contextmanager
from fractions import Fraction

import numpy as np
import torch
import torch.nn.functional as F

_TILE, _STEP = 6, 4  # cells a side that go into a tile, and that come out of it
# Where the polynomials are evaluated, infinity besides: of the sets tried, that with the smallest error, a quarter of that
# of the usual 0, 1, -1, 2, -2.
_POINTS = (Fraction(0), Fraction(2, 3), Fraction(-2, 3), Fraction(3, 2), Fraction(-3, 2))
# Found by trial: with fewer channels or cells the tiles cost more than they save.
_CHANNELS, _CELLS = 128, 64 * 64
# Numbers held in tiles at once: about what a core's own cache holds.
_AT_ONCE = 2**18


def filtering(points: tuple[Fraction, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The matrices of minimal filtering with three weights, for inputs, weights and outputs (Lavin and Gray, arXiv 1509.09308, section 4).

    points: n - 1 different ones, for the n inputs of a tile; with infinity they are n. With B (n, n), G (n, 3) and A
    (n - 2, n), A @ ((G @ weights) * (B @ inputs)) is the sum of three weighted neighbours at each of n - 2 places.

    >>> of_input, of_weight, of_output = filtering((Fraction(0), Fraction(1), Fraction(-1)))
    >>> of_output @ ((of_weight @ [1, 10, 100]) * (of_input @ [1, 2, 3, 4]))
    array([321., 432.])
    """

    def product(roots: list[Fraction]) -> list[Fraction]:
        """The coefficients, the constant first, of the polynomial with these roots."""
        found = [Fraction(1)]
        for root in roots:
            found = [low - root * high for low, high in zip([Fraction(0), *found], [*found, Fraction(0)])]
        return found

    others = [[other for other in points if other != point] for point in points]
    of_input = [[*product(roots), Fraction(0)] for roots in others] + [product(list(points))]
    # each point's weights are divided by what its own polynomial has there
    divided = [sum(c * point**k for k, c in enumerate(product(roots))) for point, roots in zip(points, others)]
    of_weight = [[point**k / by for k in range(3)] for point, by in zip(points, divided)] + [[0, 0, 1]]
    outputs = len(points) - 1
    of_output = [[*(point**k for point in points), int(k == outputs - 1)] for k in range(outputs)]
    return np.array(of_input, float), np.array(of_weight, float), np.array(of_output, float)


_OF_INPUT, _OF_WEIGHT, _OF_OUTPUT = (
    torch.from_numpy(np.kron(matrix, matrix)).float() for matrix in filtering(_POINTS)
)  # of both directions at once


# glibc's numbers of options (malloc.h), what they are to be, and what they come to without a word: M_TRIM_THRESHOLD and
# M_MMAP_THRESHOLD in bytes; M_MMAP_MAX, mapped pieces; M_ARENA_MAX, heaps, since only the first thread's keeps large pieces
_MALLOC = {-1: (2**31 - 1, 64 * 2**20), -3: (2**25, 2**25), -4: (0, 2**16), -8: (1, 0)}
_keeps = False  # as it is now


def keep_freed_memory(kept: bool = True) -> bool:
    """Let this process keep freed memory for its next arrays, or (`kept=False`) give it back as usual; returns whether that could be said.

    The C library gives arrays of over 32 MiB back at once, and each new one's pages come as zeros from the system: a
    quarter of the time of an autoencoder at 512 pixels. Only glibc can be told so; elsewhere nothing happens.
    """
    global _keeps
    try:
        library = ctypes.CDLL(None)
        mallopt, trim = library.mallopt, library.malloc_trim
    except (OSError, TypeError, AttributeError):
        return False
    _keeps = kept
    said = all(mallopt(option, values[not kept]) for option, values in _MALLOC.items())
    if not kept:
        trim(0)
    return said


@contextmanager
def as_without_this(*models: torch.nn.Module):
    """Within the block the models' convolutions are PyTorch's and freed memory is given back as usual: to compare with."""
    quick, kept = [part for model in models for part in model.modules() if type(part) is Quick], _keeps
    for part in quick:
        part.__class__ = torch.nn.Conv2d
    if kept:
        keep_freed_memory(False)
    try:
        yield
    finally:
        for part in quick:
            part.__class__ = Quick
        if kept:
            keep_freed_memory()


def quicken(model: torch.nn.Module) -> None:
    """Let all of a model's 3 x 3 convolutions of stride 1 be `Quick`, which keeps its weights and changes rounding alone.

    >>> model = torch.nn.Sequential(torch.nn.Conv2d(128, 128, 3, padding=1), torch.nn.Conv2d(128, 128, 1))
    >>> quicken(model)
    >>> [type(part).__name__ for part in model]
    ['Quick', 'Conv2d']
    """
    for part in model.modules():
        if type(part) is torch.nn.Conv2d and _is_plain(part):
            part.__class__ = Quick


def _is_plain(part: torch.nn.Conv2d) -> bool:
    shape = part.kernel_size, part.stride, part.padding, part.dilation, part.groups, part.padding_mode
    return shape == ((3, 3), (1, 1), (1, 1), (1, 1), 1, "zeros")


class Quick(torch.nn.Conv2d):
    """A 3 x 3 convolution that takes `winograd` where that is quicker: in float32, on a processor, for large maps, without gradients."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        height, width = input.shape[-2:]
        takes = (
            input.dtype == torch.float32
            and input.device.type == "cpu"
            and not torch.is_grad_enabled()
            and min(self.in_channels, self.out_channels) >= _CHANNELS
            and height * width >= _CELLS
            and height % _STEP == width % _STEP == 0
        )
        return winograd(input, self.weight, self.bias) if takes else super().forward(input)


def winograd(maps: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """What `F.conv2d(maps, weight, bias, padding=1)` gives, within rounding, with a quarter of its multiplications.

    maps: (N, C, H, W) float32, H and W multiples of 4; weight: (D, C, 3, 3). Each 4 x 4 cells of the output come from 6 x 6
    of the input by 36 products a pair of channels, where the plain sum has 144 (Winograd's minimal filtering, arXiv
    1509.09308). A few rows are done at a time, so that what lies between stays in the cache.

    >>> maps, weight = torch.ones(1, 2, 4, 4), torch.ones(3, 2, 3, 3)
    >>> winograd(maps, weight).round(decimals=3)[0, 0].tolist()[0]  # a corner sees 4 cells of both channels, an edge 6
    [8.0, 12.0, 12.0, 8.0]
    """
    (count, channels, height, width), made = maps.shape, len(weight)
    across = width // _STEP
    weights = (_OF_WEIGHT @ weight.permute(2, 3, 0, 1).reshape(9, -1)).view(_TILE**2, made, channels)
    rows = max(1, _AT_ONCE // (_TILE**2 * max(channels, made) * across))
    result = torch.empty(count, made, height, width)
    for picture, out in zip(maps, result, strict=True):
        for top in range(0, height, rows * _STEP):
            bottom = min(top + rows * _STEP, height)
            strip = picture[:, max(top - 1, 0) : bottom + 1]
            padded = F.pad(strip, (1, 3, int(top == 0), int(bottom == height)))
            # every fourth column together: a tile's first columns, its second and so on are then runs of memory
            phases = padded.view(channels, -1, across + 1, _STEP).permute(3, 0, 1, 2).contiguous()
            lines = phases.unfold(2, _TILE, _STEP).permute(4, 0, 1, 2, 3)
            tiles = torch.cat([lines[..., :across], lines[:, : _TILE - _STEP, ..., 1:]], dim=1)
            columns = _OF_INPUT @ tiles.view(_TILE**2, -1)
            products = weights @ columns.view(_TILE**2, channels, -1)
            cells = (_OF_OUTPUT @ products.view(_TILE**2, -1)).view(_STEP, _STEP, made, -1, across)
            if bias is not None:
                cells += bias[:, None, None]
            out[:, top:bottom].view(made, -1, _STEP, across, _STEP).copy_(cells.permute(2, 3, 0, 4, 1))
    return result
