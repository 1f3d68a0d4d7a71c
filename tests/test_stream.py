"""The stream: results of `segment`, in order, whatever dies or fails beside; no more pictures at once than it says."""

import os
import signal
import threading

import numpy as np
import pytest
import torch
from loky import ProcessPoolExecutor

from fsdlib.pipeline import begin_batch, segment, segment_batch
from fsdlib.recipe import BEST, PAPER
from fsdlib.stream import stream, usable_cores


def _equal(one, other):
    assert one.as_dict() == other.as_dict()
    assert np.array_equal(one.labels, other.labels) and np.array_equal(one.scores, other.scores)


@pytest.mark.parametrize("recipe", [PAPER, BEST], ids=lambda recipe: recipe.name)
def test_results_are_those_of_segment_byte_by_byte_and_in_order(mini, scenes, vocabulary, recipe):
    torch.set_num_threads(1)
    pictures = [scenes[number % len(scenes)].image[: 192 - number] for number in range(7)]
    alone = [
        result for start in (0, 3, 6) for result in segment_batch(pictures[start : start + 3], mini, recipe, vocabulary)
    ]
    found = list(stream(pictures, mini, recipe, vocabulary, batch=3, cores=2))
    assert len(found) == 7
    for one, other in zip(found, alone):
        _equal(one, other)
        assert one.seconds.keys() == other.seconds.keys() and all(value > 0 for value in one.seconds.values())


def test_pictures_are_read_as_results_are_taken(mini, scenes, vocabulary):
    read = []

    def endless():
        while True:
            read.append(len(read))
            yield scenes[0].image

    results = stream(endless(), mini, PAPER.with_changes({"refinement": "none"}), vocabulary, cores=1)
    for taken in range(1, 5):
        next(results)
        assert len(read) <= taken + 2
    results.close()


def test_a_failing_picture_raises_when_it_is_its_turn(mini, scenes, vocabulary):
    results = stream([scenes[0].image, np.zeros((4, 4), np.uint8)], mini, PAPER, vocabulary, cores=1)
    _equal(next(results), segment(scenes[0].image, mini, PAPER, vocabulary))
    with pytest.raises(ValueError, match="pass RGB"):
        next(results)
    assert next(results, None) is None


def test_a_picture_is_refined_here_where_the_processes_died(mini, scenes, vocabulary):
    with ProcessPoolExecutor(1) as refiners:
        victim = refiners.submit(os.getpid).result()
        begun = begin_batch([scenes[0].image], mini, PAPER, vocabulary, refiners=refiners)
        os.kill(victim, signal.SIGKILL)
        after = begin_batch([scenes[1].image], mini, PAPER, vocabulary, refiners=refiners)
        found = [finish() for finish in begun + after]
    for one, scene in zip(found, scenes):
        _equal(one, segment(scene.image, mini, PAPER, vocabulary))


def test_threads_share_a_models_unet_and_get_what_they_would_alone(mini, scenes, vocabulary):
    """Eight threads at once, each with a picture and a recipe whose taps differ."""
    torch.set_num_threads(1)
    recipes = [PAPER, PAPER.with_changes({"features.taps": "encoder_last"})] * 4
    alone = [segment(scenes[i % len(scenes)].image, mini, recipe, vocabulary) for i, recipe in enumerate(recipes)]
    found: dict[int, object] = {}

    def work(i: int, recipe):
        torch.set_num_threads(1)
        found[i] = segment(scenes[i % len(scenes)].image, mini, recipe, vocabulary)

    threads = [threading.Thread(target=work, args=(i, recipe)) for i, recipe in enumerate(recipes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, one in enumerate(alone):
        _equal(found[i], one)


def test_as_many_threads_as_before_afterwards(mini, scenes, vocabulary):
    torch.set_num_threads(2)
    try:
        results = stream([scenes[0].image] * 3, mini, PAPER, vocabulary, cores=1)
        next(results)
        results.close()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("wrong", [dict(batch=0), dict(cores=0), dict(cores=-1)])
def test_what_makes_no_sense_is_said_at_once(mini, wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=f"{name} is"):
        stream([], mini, PAPER, None, **wrong)


def test_no_pictures_give_no_results(mini):
    assert list(stream([], mini, PAPER, None)) == [] and usable_cores() >= 1
