"""The rehearsal cache: what it refuses, that its files are the published ones, and that the loaders read it as written."""

import hashlib
import json
import math

import huggingface_hub
import pytest
import torch
from open_clip.tokenizer import SimpleTokenizer
from safetensors.torch import load_file
from transformers import AutoProcessor, CLIPTokenizer

from fsdlib.models import Source, load_captioner, load_clip, load_diffusion, sources
from fsdlib.world import rehearsal

SD14 = sources("sd14")

# size in bytes and, where a public source gives it, the start of the SHA-256 of the published file
PUBLISHED = {
    "CompVis/stable-diffusion-v1-4": {
        "model_index.json": (541, ""),
        "scheduler/scheduler_config.json": (313, ""),
        "text_encoder/config.json": (592, ""),
        "tokenizer/merges.txt": (524619, "9fd691f7c8039210e0fced15865466c65820d09b63988b0174bfe25de299051a"),
        "tokenizer/special_tokens_map.json": (472, "c4864a9376a8401918425bed71fc14fc0e81f9b59ec45c1cf96cccb2df508eac"),
        "tokenizer/tokenizer_config.json": (806, "00439066fcba73de57644cf41e4e3b9f2dbb09d7f3fc2005898ba52399045882"),
        "tokenizer/vocab.json": (1059962, "e089ad92ba36837a0d31433e555c8f45fe601ab5c221d4f607ded32d9f7a4349"),
        "unet/config.json": (743, ""),
        "vae/config.json": (551, ""),
    },
    "Salesforce/blip-image-captioning-base": {
        "config.json": (4563, "f7846f82f4e2c4a2ccbab9ae8b0e44873540a271a76a1288effd078180c13a82"),
        "preprocessor_config.json": (287, "065c10ec97edc5081fbd9655b3d9d25e2647ea6d5dab873325e88eed12d80a7d"),
        "special_tokens_map.json": (125, "b6d346be366a7d1d48332dbc9fdf3bf8960b5d879522b7799ddba59e76237ee3"),
        "tokenizer_config.json": (506, "5c7f96096284c55e539eff95f4451c19efc34258ddb975a4400d052b77301e5e"),
    },
    "timm/vit_base_patch32_clip_224.openai": {"open_clip_config.json": (556, "")},
}


def without_weights(part: Source, revision: str | None = None) -> Source:
    files = tuple(path for path in part.files if not path.endswith(".safetensors"))
    return Source(part.repository, revision or part.revision, files)


@pytest.fixture(scope="module")
def light(tmp_path_factory):
    """A cache of sd14's three repositories, all but the weights, and their snapshot folders by repository."""
    cache = tmp_path_factory.mktemp("hub")
    return cache, rehearsal.write_cache(cache, [without_weights(part) for part in SD14.values()])


def test_refuses_a_folder_that_is_no_rehearsal(tmp_path):
    (tmp_path / "models--CompVis--stable-diffusion-v1-4").mkdir()
    with pytest.raises(FileExistsError, match="no rehearsal"):
        rehearsal.write_cache(tmp_path, [without_weights(SD14["clip"])])
    assert [path.name for path in tmp_path.iterdir()] == ["models--CompVis--stable-diffusion-v1-4"]


def test_accepts_its_own_folder_again(tmp_path):
    for _ in range(2):
        rehearsal.write_cache(tmp_path, [without_weights(SD14["clip"])])
    assert "no result" in (tmp_path / "REHEARSAL.txt").read_text()


def test_refuses_what_it_has_no_configuration_of(tmp_path):
    with pytest.raises(ValueError, match="stable-diffusion-v1-5/stable-diffusion-v1-5 cannot be rehearsed"):
        rehearsal.write_cache(tmp_path / "hub", sources("sd15").values())
    assert not (tmp_path / "hub").exists()


def test_small_files_are_the_published_ones(light):
    for repository, snapshot in light[1].items():
        for name, (size, digest) in PUBLISHED[repository].items():
            content = (snapshot / name).read_bytes()
            assert len(content) == size, name
            assert hashlib.sha256(content).hexdigest().startswith(digest), name


def test_the_hubs_client_finds_every_file(light):
    cache, snapshots = light
    for part in map(without_weights, SD14.values()):
        folder = huggingface_hub.snapshot_download(
            part.repository, revision=part.revision, cache_dir=cache, local_files_only=True
        )
        assert folder == str(snapshots[part.repository])
        for name in part.files:
            found = huggingface_hub.try_to_load_from_cache(
                part.repository, name, cache_dir=cache, revision=part.revision
            )
            assert found == str(snapshots[part.repository] / name)


def test_files_are_links_to_blobs_named_as_the_hub_names_them(light):
    vocabulary = light[1]["CompVis/stable-diffusion-v1-4"] / "tokenizer" / "vocab.json"
    assert vocabulary.is_symlink() and not vocabulary.readlink().is_absolute()
    assert (
        vocabulary.resolve().name == "469be27c5c010538f845f518c4f5e8574c78f7c8"
    )  # as in caches of the published files


@pytest.mark.parametrize("revision", ["main", "refs/pr/1"])
def test_a_branch_is_resolved_to_a_commit(tmp_path, revision):
    part = without_weights(SD14["clip"], revision)
    snapshot = rehearsal.write_cache(tmp_path, [part])[part.repository]
    assert len(snapshot.name) == 40
    assert (snapshot.parent.parent / "refs" / revision).read_text() == snapshot.name
    found = huggingface_hub.snapshot_download(
        part.repository, revision=revision, cache_dir=tmp_path, local_files_only=True
    )
    assert found == str(snapshot)


def test_clip_tokenizer_agrees_with_open_clips(light):
    tokenizer = CLIPTokenizer.from_pretrained(light[1]["CompVis/stable-diffusion-v1-4"], subfolder="tokenizer")
    vocabulary = rehearsal.clip_vocabulary()
    assert len(vocabulary) == len(tokenizer) == 49408
    for text in ("a photo of a cat", "A Potted Plant, indoors!", "zebras & naïve café 42", ""):
        expected = [vocabulary["<|startoftext|>"], *SimpleTokenizer().encode(text), vocabulary["<|endoftext|>"]]
        assert tokenizer(text).input_ids == expected
    padded = tokenizer("a cat", padding="max_length", max_length=tokenizer.model_max_length).input_ids
    assert len(padded) == 77 and padded[-1] == 49407


def test_bert_vocabulary_has_the_published_size_and_special_tokens(light):
    vocabulary = rehearsal.bert_vocabulary()
    assert len(vocabulary) == len(set(vocabulary)) == 30522
    assert [vocabulary[index] for index in (0, 100, 101, 102, 103)] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    processor = AutoProcessor.from_pretrained(light[1]["Salesforce/blip-image-captioning-base"])
    ids = processor.tokenizer("a picture of two cats").input_ids
    assert (ids[0], ids[-1]) == (101, 102) and 100 not in ids
    assert processor.decode(ids, skip_special_tokens=True) == "a picture of two cats"
    assert (processor.image_processor.size["height"], processor.image_processor.size["width"]) == (384, 384)


@pytest.mark.parametrize(
    "part, path, numbers",
    [
        ("diffusion", "unet/diffusion_pytorch_model.safetensors", 859_520_964),
        ("diffusion", "vae/diffusion_pytorch_model.safetensors", 83_653_863),
        ("diffusion", "text_encoder/model.safetensors", 123_060_480 + 77),
        ("captioner", "model.safetensors", 247_414_076 + 512),
        ("clip", "open_clip_model.safetensors", 151_277_313),
    ],
)
def test_weight_files_hold_as_many_numbers_as_the_published_ones(part, path, numbers):
    tensors = rehearsal.published_tensors(rehearsal.configurations(SD14[part].repository), path)
    assert sum(math.prod(tensor.shape) for tensor in tensors.values()) == numbers


SMALL = {  # the published configurations with small numbers
    "CompVis/stable-diffusion-v1-4": {
        "unet/config.json": dict(block_out_channels=[32, 64, 64, 64], cross_attention_dim=32, sample_size=8),
        "vae/config.json": dict(block_out_channels=[32, 32, 32, 32], sample_size=64),
        "text_encoder/config.json": dict(
            hidden_size=32, intermediate_size=64, num_attention_heads=2, num_hidden_layers=2
        ),
    },
    "Salesforce/blip-image-captioning-base": {
        "config.json": dict(text_config={}, vision_config=dict(image_size=32)),
        "preprocessor_config.json": dict(size=32),
    },
    "timm/vit_base_patch32_clip_224.openai": {"open_clip_config.json": dict(model_cfg=dict(embed_dim=16))},
}
_SMALL_TOWER = dict(
    hidden_size=32, intermediate_size=64, num_attention_heads=2, num_hidden_layers=2, encoder_hidden_size=32
)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A whole cache with weights, of the published architectures made small; (cache, snapshots, parts)."""
    root, cache = tmp_path_factory.mktemp("configurations"), tmp_path_factory.mktemp("hub")
    for repository in SMALL:
        source = rehearsal.configurations(repository)
        for path in source.rglob("*.json"):
            content = json.loads(path.read_text())
            name = path.relative_to(source).as_posix()
            changes = SMALL[repository].get(name, {})
            for key, value in changes.items():
                content[key] = (
                    content[key] | _SMALL_TOWER | value
                    if key.endswith("_config")
                    else content[key] | value
                    if key == "model_cfg"
                    else value
                )
            if name == "open_clip_config.json":
                content["model_cfg"] |= dict(vision_cfg=dict(image_size=64, layers=2, width=64, patch_size=32))
                content["model_cfg"]["text_cfg"] |= dict(width=64, heads=2, layers=2)
            target = root / repository.replace("/", "--") / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(json.dumps(content))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rehearsal, "CONFIGURATIONS", root)
        yield cache, rehearsal.write_cache(cache, SD14.values(), seed=1)


def test_the_loaders_read_every_number_as_written(small):
    _, snapshots = small
    diffusion = load_diffusion(snapshots["CompVis/stable-diffusion-v1-4"])
    captioner = load_captioner(snapshots["Salesforce/blip-image-captioning-base"])
    clip = load_clip(snapshots["timm/vit_base_patch32_clip_224.openai"])
    earlier = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def in_the_autoencoders_file(name):
        for present, past in earlier.items():
            name = name.replace(f"attentions.0.{present}.", f"attentions.0.{past}.")
        return name

    def in_the_captioners_file(name):  # one bias, known to the model under two names
        return name.replace("predictions.decoder.bias", "predictions.bias")

    for model, repository, path, published in (
        (diffusion.unet, "CompVis/stable-diffusion-v1-4", "unet/diffusion_pytorch_model.safetensors", str),
        (
            diffusion.encoder,
            "CompVis/stable-diffusion-v1-4",
            "vae/diffusion_pytorch_model.safetensors",
            in_the_autoencoders_file,
        ),
        (
            diffusion.text_encoders[0],
            "CompVis/stable-diffusion-v1-4",
            "text_encoder/model.safetensors",
            lambda name: f"text_model.{name.removeprefix('text_model.')}",
        ),
        (captioner.model, "Salesforce/blip-image-captioning-base", "model.safetensors", in_the_captioners_file),
        (clip.model, "timm/vit_base_patch32_clip_224.openai", "open_clip_model.safetensors", str),
    ):
        written = load_file(snapshots[repository] / path)
        for name, value in model.state_dict().items():
            assert torch.equal(value, written[published(name)]), name


@pytest.mark.slow
def test_a_photograph_is_segmented_in_a_process_that_knows_no_other_cache(small):
    report = rehearsal.run(small[0])
    assert report["models"]["diffusion"]["commit"] == SD14["diffusion"].revision and report["seconds"]["segment"] > 0


def test_openai_weights_are_loaded_with_quick_gelu(small):
    clip = load_clip(small[1]["timm/vit_base_patch32_clip_224.openai"])
    assert type(clip.model.visual.transformer.resblocks[0].mlp.gelu).__name__ == "QuickGELU"


def test_a_seed_gives_the_same_bytes_and_another_seed_others(small, tmp_path):
    part = Source(SD14["clip"].repository, SD14["clip"].revision, SD14["clip"].files)
    name = "open_clip_model.safetensors"
    expected = (small[1][part.repository] / name).read_bytes()
    assert (rehearsal.write_cache(tmp_path, [part], seed=1)[part.repository] / name).read_bytes() == expected
    snapshot = rehearsal.write_cache(tmp_path, [part], seed=2)[part.repository]
    assert (snapshot / name).read_bytes() != expected
    assert len(list((snapshot.parent.parent / "blobs").iterdir())) == len(part.files)  # the first seed's blob is gone
