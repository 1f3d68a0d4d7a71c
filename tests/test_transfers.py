"""How often numbers cross to a GPU and back, counted without one: PyTorch's device without memory stands in for it."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fsdlib.features import features, find_taps, latents

GPU = torch.device("meta")


class Crossings(TorchDispatchMode):
    """Counts copies between main memory and the stand-in, and each wait for one of its numbers; what comes back is ones."""

    def __init__(self):
        super().__init__()
        self.there = self.back = self.waits = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name, given = operation.name(), args[0] if args else None
        if name == "aten::_local_scalar_dense" and given.device == GPU:
            self.waits += 1
            return 1
        to = kwargs.get("device")
        if name == "aten::_to_copy" and to is not None and torch.device(to) != given.device:
            self.there += given.device != GPU
            self.back += given.device == GPU
            if given.device == GPU:
                return torch.ones(given.shape, dtype=kwargs.get("dtype") or given.dtype)
        return operation(*args, **kwargs)


@pytest.fixture(scope="module")
def on_gpu(mini):
    """The mini diffusion model and CLIP, moved; what they keep of texts has been asked for before."""
    diffusion = replace(
        mini.diffusion,
        unet=copy.deepcopy(mini.diffusion.unet).to(GPU),
        encoder=copy.deepcopy(mini.diffusion.encoder).to(GPU),
        text_encoders=[copy.deepcopy(encoder).to(GPU) for encoder in mini.diffusion.text_encoders],
    )
    clip = replace(mini.clip, model=copy.deepcopy(mini.clip.model).to(GPU), device=GPU)
    with Crossings():
        diffusion.condition("", 1)
    return diffusion, clip


@pytest.mark.parametrize("count", [1, 6])
def test_a_batch_crosses_as_often_as_a_picture(on_gpu, scene, count):
    """There: pixels, latents. Back: the posterior's mean and deviation, and the map of each tap."""
    diffusion, _ = on_gpu
    images, taps = [scene.image] * count, find_taps(diffusion)
    with Crossings() as crossings:
        passed = latents(images, diffusion)
        features(passed, diffusion, taps, [0] * count)
    assert (crossings.there, crossings.back, crossings.waits) == (2, 2 + len(taps), 0)


@pytest.mark.parametrize("noises", [1, 3])
def test_several_noises_cross_once_each(on_gpu, scene, noises):
    diffusion, _ = on_gpu
    taps, passed = find_taps(diffusion), np.zeros((1, 4, 16, 16), np.float32)
    with Crossings() as crossings:
        features(passed, diffusion, taps, [0], noise_samples=noises)
    assert (crossings.there, crossings.back) == (noises, noises * len(taps))


@pytest.mark.parametrize("masks", [1, 9])
def test_all_masks_of_a_picture_cross_together(on_gpu, scene, masks):
    _, clip = on_gpu
    with Crossings() as crossings:
        clip.encode_images([scene.image] * masks)
    assert (crossings.there, crossings.back, crossings.waits) == (1, 1, 0)
