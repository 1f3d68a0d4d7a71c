"""What is kept on disk: the same results with it and without, whatever becomes of its files."""

import itertools
import os
import warnings
from pathlib import Path

import numpy as np
import pytest

from fsdlib.models import load_models
from fsdlib.pipeline import segment, segment_batch
from fsdlib.recipe import BEST, PAPER
from fsdlib.store import Store


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    return load_models("mini", store=tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def fresh():
    """Models that have encoded no text in another company, on which its last digit depends."""
    return load_models("mini")


def test_results_are_the_same_with_a_store_the_first_time_and_the_second(fresh, kept, scenes, vocabulary):
    images = [scene.image for scene in scenes]
    for recipe in (PAPER, BEST):
        without = segment_batch(images, fresh, recipe, vocabulary)
        for _ in range(2):
            for one, other in zip(segment_batch(images, kept, recipe, vocabulary), without, strict=True):
                assert one.as_dict() == other.as_dict() and np.array_equal(one.labels, other.labels)


def test_another_recipe_over_the_same_pictures_asks_neither_captioner_nor_encoder(tmp_path, fresh, scene, vocabulary):
    first = load_models("mini", store=tmp_path)
    segment(scene.image, first, PAPER, vocabulary)
    second = load_models("mini", store=tmp_path)
    second.captioner.model = second.diffusion.encoder.encode = None
    changed = PAPER.with_changes({"clusters.count": 6, "refinement": "none"})
    assert (
        segment(scene.image, second, changed, vocabulary).as_dict()
        == segment(scene.image, fresh, changed, vocabulary).as_dict()
    )
    for other in (scene.image[:100], scene.image[::-1]):
        with pytest.raises(AttributeError):
            segment(other, second, changed, vocabulary)


@pytest.mark.parametrize(
    "different",
    [
        lambda store, pictures: (store, ["caption", 3], pictures),
        lambda store, pictures: (Store(store.folder, dict(model="another")), ["caption", 2], pictures),
        lambda store, pictures: (store, ["caption", 2], pictures[:1]),
        lambda store, pictures: (store, ["caption", 2], pictures[::-1]),
        lambda store, pictures: (store, ["caption", 2], [pictures[0], pictures[1].reshape(3, 2, 3)]),
    ],
    ids=["options", "model", "batch", "order", "shape"],
)
def test_what_follows_from_something_else_is_something_else(tmp_path, different):
    pictures = [np.zeros((2, 3, 3), np.uint8), np.ones((2, 3, 3), np.uint8)]
    store = Store(tmp_path, dict(model="one"))
    assert store.texts(["caption", 2], pictures, lambda: ["a", "b"]) == ["a", "b"]
    assert store.texts(["caption", 2], pictures, lambda: ["c", "d"]) == ["a", "b"]
    other, what, shown = different(store, pictures)
    assert other.texts(what, shown, lambda: ["e"] * len(shown)) == ["e"] * len(shown)


@pytest.mark.parametrize("damage", [b"", b"{", b"[1, 2]", b'["one"]', b"\xff" * 40, None], ids=repr)
def test_a_damaged_or_deleted_file_is_made_anew(tmp_path, damage):
    store, picture = Store(tmp_path, {}), np.zeros((1, 1, 3), np.uint8)

    def texts(said):
        return store.texts(["caption"], [picture] * 2, lambda: [said, said])

    def array(value):
        return store.array(["latent"], [picture], lambda: np.array([value])).tolist()

    assert (texts("first"), array(1.0)) == (["first"] * 2, [1.0])
    for path in tmp_path.glob("??/*"):
        path.unlink() if damage is None else path.write_bytes(damage)
    assert (texts("second"), array(2.0)) == (["second"] * 2, [2.0])
    assert (texts("third"), array(3.0)) == (["second"] * 2, [2.0])


def test_all_files_together_stay_below_the_bound_and_the_longest_unused_go_first(tmp_path):
    store = Store(tmp_path, {}, most=40_000)

    def made(number: int, value: float) -> float:
        return float(store.array([number], [], lambda: np.full(250, value))[0])  # 2 kB and a header

    for number in range(18):
        made(number, 0)
        for path in tmp_path.glob("??/*"):  # a file system's clock may be coarse
            os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns - 10**9))
    made(0, 1)  # used now
    for number in range(18, 24):
        made(number, 0)
    assert 30_000 < sum(path.stat().st_size for path in tmp_path.glob("??/*")) <= 40_000
    assert [made(number, 2) for number in (0, 23)] == [0, 0] and made(1, 2) == 2


def test_an_array_comes_back_as_it_was_whatever_its_order_in_memory(tmp_path):
    store, whole = Store(tmp_path, {}), np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    for number, axes in enumerate(itertools.permutations(range(3))):
        turned = whole.transpose(axes)
        for _ in range(2):
            found = store.array([number], [], lambda turned=turned: turned)
            assert np.array_equal(found, turned) and found.strides == turned.strides


def test_where_nothing_can_be_written_the_work_goes_on_with_a_warning(tmp_path):
    taken = tmp_path / "file"
    taken.write_text("no folder")
    with pytest.warns(UserWarning, match="cannot be kept"):
        assert Store(taken, {}).texts([], [np.zeros((1, 1, 3), np.uint8)], lambda: ["a"]) == ["a"]


def test_nothing_is_kept_unless_a_folder_is_named(mini, scene, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        segment(scene.image, mini, PAPER)
    assert mini.captioner.store is mini.diffusion.store is mini.clip.store is None and not list(Path().iterdir())
