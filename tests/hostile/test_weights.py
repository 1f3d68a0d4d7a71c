"""Weights, configurations and tokenizers that are damaged, exchanged or hostile."""

import hashlib
import json
import os
import pickle
import re
import shutil
from dataclasses import replace

import huggingface_hub
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoProcessor, AutoTokenizer, CLIPTextModel, CLIPTokenizer

from fsdlib import models
from fsdlib.measure.benchmarks import open_dataset
from fsdlib.measure.run import configuration
from fsdlib.measure.segmenters import FreeSegDiff
from fsdlib.models import ModelSet, ModelUnavailable, Source, load_captioner, load_clip, load_diffusion
from fsdlib.project import MINI
from fsdlib.recipe import PAPER

PARTS = {"diffusion": "stable-diffusion", "captioner": "blip", "clip": "clip"}
LOADERS = {"diffusion": load_diffusion, "captioner": load_captioner, "clip": load_clip}
WEIGHTS = {
    # one file of each kind: its part, its path, a tensor of it
    "unet": ("diffusion", "unet/diffusion_pytorch_model.safetensors", "conv_in.weight"),
    "vae": ("diffusion", "vae/diffusion_pytorch_model.safetensors", "encoder.conv_in.weight"),
    "text encoder": ("diffusion", "text_encoder/model.safetensors", "final_layer_norm.weight"),
    "captioner": ("captioner", "model.safetensors", "vision_model.post_layernorm.weight"),
    "clip": ("clip", "open_clip_model.safetensors", "visual.class_embedding"),
}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The mini models as the model set "cached" in a cache of the hub, which is in use; gives each part's snapshot.

    As in a true one, files are links to blobs, and those of weights are named by their SHA-256.
    """
    snapshots, tables = {}, dict(diffusion=models.DIFFUSION, captioner=models.CAPTIONERS, clip=models.CLIPS)
    for part, name in PARTS.items():
        repository, snapshot = tmp_path / f"models--hostile--{part}", f"snapshots/{'0' * 40}"
        files = sorted(path.relative_to(MINI / name) for path in (MINI / name).rglob("*") if path.is_file())
        for file in files:
            content = (MINI / name / file).read_bytes()
            kind = hashlib.sha256 if file.suffix == ".safetensors" else hashlib.sha1
            blob, link = repository / "blobs" / kind(content).hexdigest(), repository / snapshot / file
            for folder in (blob.parent, link.parent):
                folder.mkdir(parents=True, exist_ok=True)
            blob.write_bytes(content)
            link.symlink_to(os.path.relpath(blob, link.parent))
        snapshots[part] = repository / snapshot
        source = Source(f"hostile/{part}", "0" * 40, tuple(map(str, files)))
        monkeypatch.setitem(tables[part], "cached", source)
    monkeypatch.setitem(models.MODEL_SETS, "cached", ("cached",) * 3)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    return snapshots


@pytest.fixture(scope="module")
def configured(tmp_path_factory):
    """A function from a model set's name to the run that its results would stand under."""
    root = tmp_path_factory.mktemp("pictures")
    Image.new("RGB", (8, 8)).save(root / "one.png")
    (root / "classes.txt").write_text("cat")
    dataset = open_dataset("folder", root)
    return lambda name: configuration(dataset, FreeSegDiff(ModelSet(name, "cpu"), PAPER))


def rewritten(hub, part, path, change):
    """Weights of a part with other tensors, under the name that the hub gives such a file."""
    link = hub[part] / path
    tensors = change(load_file(link))
    blob = link.resolve()
    save_file(tensors, blob, {"format": "pt"})
    renamed = blob.rename(blob.parent / hashlib.sha256(blob.read_bytes()).hexdigest())
    link.unlink()
    link.symlink_to(renamed)


def without_five(name):
    """Five neighbouring tensors less."""

    def change(tensors):
        names = sorted(tensors)
        lost = names[names.index(name) :][:5]
        return {name: tensor for name, tensor in tensors.items() if name not in lost}

    return change


def filled(name, value, of_many=True):
    def change(tensors):
        spoiled = tensors[name].float()
        spoiled.view(-1)[slice(None) if of_many else -1] = value
        return tensors | {name: spoiled}

    return change


# ------------------------------------------------------------------------------------------------- tensors


@pytest.mark.parametrize("which", WEIGHTS)
@pytest.mark.parametrize(
    "damage, said",
    [
        (without_five, "not those of the whole .*(is missing|Missing key)"),
        (lambda name: lambda tensors: tensors | {"another.weight": torch.ones(2)}, "another.weight"),
        (lambda name: lambda tensors: tensors | {name: tensors[name][None]}, "not those of the whole"),
        (lambda name: filled(name, np.nan), "{name} of the .* holds numbers that are not finite"),
        (lambda name: filled(name, np.inf, of_many=False), "{name} of the .* holds numbers that are not finite"),
        (lambda name: filled(name, -np.inf, of_many=False), "{name} of the .* holds numbers that are not finite"),
    ],
    ids=["five missing", "one too many", "another shape", "nan", "one inf", "one -inf"],
)
def test_tensors_that_are_not_a_whole_models_are_refused_by_name(hub, which, damage, said):
    """weights with tensors missing, added, of another shape, NaN or infinite -> refused with the tensor's name"""
    part, path, name = WEIGHTS[which]
    rewritten(hub, part, path, damage(name))
    with pytest.raises(ModelUnavailable, match=said.replace("{name}", re.escape(name))) as refused:
        LOADERS[part](hub[part])
    assert "fetch it again" in str(refused.value) and str(hub[part]) in str(refused.value)


def test_numbers_that_are_too_large_for_the_runs_precision_are_refused(hub):
    """weights too large for float16 -> refused in float16, loaded in float32"""
    part, path, name = WEIGHTS["unet"]
    rewritten(hub, part, path, filled(name, 1e5, of_many=False))
    load_diffusion(hub[part])
    with pytest.raises(ModelUnavailable, match="conv_in.weight of the UNet holds numbers that are not finite"):
        load_diffusion(hub[part], dtype=torch.float16)


def test_positions_of_another_size_are_refused_where_open_clip_would_resize_them(hub):
    """positions of another number, which open_clip would resize -> refused"""
    part, path, _ = WEIGHTS["clip"]
    rewritten(hub, part, path, lambda tensors: tensors | {"positional_embedding": tensors["positional_embedding"][:20]})
    with pytest.raises(ModelUnavailable, match=r"positional_embedding is \(20, 128\) where the model has \(32, 128\)"):
        load_clip(hub[part])


def test_what_older_files_hold_beside_the_weights_still_loads(hub):
    """weights under their earlier names, with what older files hold -> the same vectors"""
    part, path, _ = WEIGHTS["text encoder"]
    positions = {"text_model.embeddings.position_ids": torch.arange(32)[None]}
    rewritten(hub, part, path, lambda tensors: tensors | positions)
    rewritten(hub, part, WEIGHTS["vae"][1], with_earlier_names)
    text = ["a cat"]
    whole = load_diffusion(MINI / "stable-diffusion")
    assert np.array_equal(load_diffusion(hub[part]).encode_text(text), whole.encode_text(text))


def with_earlier_names(tensors):
    """The autoencoder's attention as diffusers called it before 2023."""
    earlier = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    found = {}
    for name, tensor in tensors.items():
        for new, old in earlier.items():
            name = name.replace(f"mid_block.attentions.0.{new}.", f"mid_block.attentions.0.{old}.")
        found[name] = tensor
    assert found.keys() != tensors.keys()
    return found


# ------------------------------------------------------------------------------------------------- bytes


@pytest.mark.parametrize("which", WEIGHTS)
def test_a_flipped_byte_of_cached_weights_is_found_before_anything_is_loaded(hub, which, configured):
    """a flipped byte in cached weights -> refused by its hash before anything is loaded"""
    part, path, _ = WEIGHTS[which]
    blob = (hub[part] / path).resolve()
    content = bytearray(blob.read_bytes())
    content[-1] ^= 1
    blob.write_bytes(content)
    with pytest.raises(ModelUnavailable, match=f"{re.escape(path)} has sha256 .*, the hub says .*fetch it again"):
        configured("cached")


@pytest.mark.parametrize("left", [0, 4, 1000, -1])
@pytest.mark.parametrize("which", WEIGHTS)
def test_cut_weights_are_refused_with_the_folder_and_the_remedy(hub, which, left):
    """weights cut at 0, 4 or 1,000 bytes or by one -> refused with the folder and what to do"""
    part, path, _ = WEIGHTS[which]
    (hub[part] / path).resolve().write_bytes((hub[part] / path).read_bytes()[:left])
    with pytest.raises(ModelUnavailable, match=f"{re.escape(str(hub[part]))}.* cannot be loaded .*fetch them again"):
        LOADERS[part](hub[part])


CONFIGURATIONS = [
    ("diffusion", "unet/config.json"),
    ("diffusion", "vae/config.json"),
    ("diffusion", "text_encoder/config.json"),
    ("diffusion", "tokenizer/vocab.json"),
    ("diffusion", "scheduler/scheduler_config.json"),
    ("captioner", "config.json"),
    ("captioner", "tokenizer.json"),
    ("captioner", "preprocessor_config.json"),
    ("clip", "open_clip_config.json"),
]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe\x00"], ids=["empty", "cut", "a list", "no text"])
@pytest.mark.parametrize("part, path", CONFIGURATIONS)
def test_a_damaged_configuration_is_one_sentence(hub, part, path, content):
    """configurations and tokenizers that are empty, cut, a list or no text -> refused in one sentence"""
    (hub[part] / path).resolve().write_bytes(content)
    with pytest.raises(ModelUnavailable, match=f"{re.escape(str(hub[part]))}.* cannot be loaded .*fetch them again$"):
        LOADERS[part](hub[part])


# ------------------------------------------------------------------------------------------------- identity


def another_number(text):
    """A JSON text in which the first number that is not in a name is another one."""
    return re.sub(r"(?<=: )(\d+)", lambda found: str(int(found[0]) + 1), text, count=1)


EVERY_FILE = [
    (part, path.relative_to(MINI / name).as_posix())
    for part, name in PARTS.items()
    for path in sorted((MINI / name).rglob("*"))
    if path.is_file()
]


@pytest.mark.parametrize("part, path", EVERY_FILE)
def test_every_file_that_is_read_counts_in_identity_and_run(hub, part, path, configured):
    """a byte more in any file that is read -> another identity and another run"""
    before = configured("cached")
    link = hub[part] / path
    content = link.read_bytes()
    link.unlink()  # as a fetch of another revision under the same name would leave it
    link.write_bytes(content + b" ")
    after = configured("cached")
    assert before["identity"][part]["sha256"] != after["identity"][part]["sha256"]
    assert before["hash"] != after["hash"]
    others = PARTS.keys() - {part}
    assert all(before["identity"][other] == after["identity"][other] for other in others)
    link.write_bytes(content)
    assert configured("cached") == before


def test_another_scaling_factor_of_the_embedded_models_is_another_run(tmp_path, monkeypatch, configured):
    """another scaling factor of the embedded models -> another run"""
    shutil.copytree(MINI, tmp_path / "mini")
    monkeypatch.setattr(models, "MINI", tmp_path / "mini")
    source = replace(models.DIFFUSION["mini"], folder=tmp_path / "mini" / "stable-diffusion")
    monkeypatch.setitem(models.DIFFUSION, "mini", source)
    before, path = configured("mini"), source.folder / "vae" / "config.json"
    assert before["identity"] == ModelSet("mini", "cpu").identity
    about = json.loads(path.read_text())
    path.write_text(json.dumps(about | dict(scaling_factor=2 * about["scaling_factor"])))
    assert configured("mini")["hash"] != before["hash"]


def test_a_tokenizer_that_lies_beside_the_listed_files_counts_too(hub, configured):
    """a tokenizer's file that nothing lists -> another run"""
    before = configured("cached")
    (hub["clip"] / "added_tokens.json").write_text('{"cat": 3}')
    assert configured("cached")["hash"] != before["hash"]


def test_what_no_library_reads_does_not_count(hub, configured):
    """files that no library reads -> the same run"""
    before = configured("cached")
    for name in ("README.md", "unet/diffusion_pytorch_model.bin", "unet/diffusion_pytorch_model.fp16.safetensors"):
        (hub["diffusion"] / name).write_bytes(b"anything")
    assert configured("cached") == before


def test_a_worker_with_other_files_than_the_run_was_set_up_with_does_not_load_them(hub):
    """a worker whose files are others than the run's -> refused there"""
    chosen = ModelSet("cached", "cpu")
    known = chosen.identity
    sent = pickle.loads(pickle.dumps(chosen))  # as Ray sends it
    assert sent.load().identity == known
    path = hub["diffusion"] / "scheduler" / "scheduler_config.json"
    path.resolve().write_text(another_number(path.read_text()))
    with pytest.raises(ModelUnavailable, match="are others than when this run was set up"):
        sent.load()


def test_files_are_read_for_their_hash_once_a_process(hub, monkeypatch):
    """a model set's identity asked for twice -> its files are read once"""
    ModelSet("cached", "cpu").identity  # noqa: B018
    monkeypatch.setattr(hashlib, "file_digest", None)  # fails if it is called
    assert ModelSet("cached", "cpu").identity


# ------------------------------------------------------------------------------------------------- code


CODE = [
    ("captioner", "preprocessor_config.json", "AutoImageProcessor", "image_processor_type"),
    ("captioner", "preprocessor_config.json", "AutoProcessor", "processor_class"),
    ("captioner", "processor_config.json", "AutoProcessor", "processor_class"),
    ("captioner", "tokenizer_config.json", "AutoTokenizer", "tokenizer_class"),
    ("captioner", "config.json", "AutoConfig", "model_type"),
    ("captioner", "config.json", "AutoModelForImageTextToText", "model_type"),
    ("diffusion", "text_encoder/config.json", "AutoModel", "model_type"),
    ("diffusion", "tokenizer/tokenizer_config.json", "AutoTokenizer", "tokenizer_class"),
    ("clip", "tokenizer_config.json", "AutoTokenizer", "tokenizer_class"),
]


@pytest.mark.parametrize("kind", ["known", "hostile"])
@pytest.mark.parametrize("part, path, auto, key", CODE)
def test_code_that_a_configuration_names_is_refused_not_run_and_not_asked_about(
    hub, tmp_path, monkeypatch, part, path, auto, key, kind
):
    """configurations that name code of their own, beside it -> refused, not run, not asked about"""
    asked, mark, file = [], tmp_path / "mark", hub[part] / path
    monkeypatch.setattr("builtins.input", lambda question: asked.append(question) or "y")
    (file.parent / f"{tmp_path.name}.py").write_text(f"open({str(mark)!r}, 'w')\nclass Hostile: pass\n")
    about = json.loads(file.read_text()) if file.exists() else {}
    name = f"{tmp_path.name}.Hostile"  # of a module that no other test has imported
    about["auto_map"] = {auto: [name, name] if auto == "AutoTokenizer" else name}
    file.unlink(missing_ok=True)
    file.write_text(json.dumps(about | ({key: "hostile"} if kind == "hostile" else {})))
    with pytest.raises(ModelUnavailable, match=f"{re.escape(path)} asks for code of its own to be run, which is never"):
        LOADERS[part](hub[part])
    assert not mark.exists() and not asked


def test_transformers_is_told_not_to_run_code_wherever_it_may_read_a_configuration(hub, monkeypatch):
    """every loader of transformers, watched -> each is told not to run a repository's code"""
    told = []
    for kind in (AutoProcessor, AutoTokenizer, AutoModelForImageTextToText, CLIPTextModel, CLIPTokenizer):

        def load(*arguments, whole=kind.from_pretrained, name=kind.__name__, **options):
            told.append((name, options.get("trust_remote_code")))
            return whole(*arguments, **options)

        monkeypatch.setattr(kind, "from_pretrained", load)
    for part, loader in LOADERS.items():
        loader(hub[part])
    assert {name for name, said in told if said is False} == {
        "AutoProcessor",
        "AutoTokenizer",
        "AutoModelForImageTextToText",
        "CLIPTextModel",
        "CLIPTokenizer",
    }


def test_a_clip_whose_text_tower_is_in_another_repository_is_refused(hub):
    """a CLIP whose text tower lies in another repository -> refused"""
    path = hub["clip"] / "open_clip_config.json"
    about = json.loads(path.read_text())
    about["model_cfg"]["text_cfg"]["hf_model_name"] = "hostile/tower"
    path.resolve().write_text(json.dumps(about))
    with pytest.raises(ModelUnavailable, match="its text tower in another repository, hostile/tower"):
        load_clip(hub["clip"])
