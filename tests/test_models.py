import hashlib
import http.server
import json
import re
import runpy
import shutil
import sys
import threading
import zipfile
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import numpy as np
import open_clip
import pytest
import timm
import torch
from diffusers import AutoencoderKL
from PIL import Image
from safetensors.torch import load_file, save_file
from torchvision.transforms import CenterCrop

from fsdlib import efficientnet, models
from fsdlib.caption import caption
from fsdlib.efficientnet import WrongPackage, make, renamed
from fsdlib.features import features, find_taps, latents
from fsdlib.models import (
    BACKBONES,
    CAPTIONERS,
    CLIPS,
    DIFFUSION,
    MODEL_SETS,
    CropRoundedDown,
    ModelSet,
    ModelUnavailable,
    is_transformer,
    load_backbone,
    load_captioner,
    load_clip,
    load_diffusion,
    load_models,
    locate,
    sources,
    untrained,
    untrained_backbone,
)
from fsdlib.names import pooled_patches
from fsdlib.project import MINI, ROOT
from fsdlib.vocabulary import Vocabulary
from fsdlib.words import ClassStrings

TABLES = (DIFFUSION, CAPTIONERS, CLIPS, BACKBONES)
PUBLISHED = [source for table in TABLES for source in table.values() if source.folder is None]


# ------------------------------------------------------------------------------------------------- the table


def test_every_model_set_lists_safetensors_and_text_alone():
    for name in MODEL_SETS:
        for source in sources(name).values():
            assert {Path(file).suffix for file in source.files} <= {".safetensors", ".json", ".txt"}
            assert any(file.endswith(".safetensors") for file in source.files)


def test_every_published_model_is_pinned_to_a_full_commit_or_to_main():
    assert all(re.fullmatch("[0-9a-f]{40}|main", source.revision) for source in PUBLISHED)
    assert len({source.repository for source in PUBLISHED}) == len(PUBLISHED)


def test_sd14_is_the_published_set():
    repositories = {part: source.repository for part, source in sources("sd14").items()}
    assert repositories == dict(
        diffusion="CompVis/stable-diffusion-v1-4",
        captioner="Salesforce/blip-image-captioning-base",
        clip="timm/vit_base_patch32_clip_224.openai",
    )


def test_one_part_of_a_set_can_be_exchanged():
    exchanged = sources("sd14", captioner="blip2", clip="convnext-large")
    assert exchanged == sources("sd14") | dict(captioner=CAPTIONERS["blip2"], clip=CLIPS["convnext-large"])


@pytest.mark.parametrize(
    "asked", [dict(name="sd99"), dict(name="sd14", captioner="gpt"), dict(name="sd14", clip="siglip")]
)
def test_unknown_names_are_answered_with_those_there_are(asked):
    with pytest.raises(ValueError, match=f"{list(asked.values())[-1]!r}: choose one of mini, "):
        sources(**asked)


# ------------------------------------------------------------------------------------------------- backbones


def test_a_backbone_that_is_not_pinned_says_so():
    assert all(source.revision != "main" or "no public source" in source.note for source in BACKBONES.values())


def test_every_backbone_of_elsewhere_is_an_architecture_of_timms_with_a_configuration_of_its_own_or_a_transformer():
    of_timm = {name for name in BACKBONES if not is_transformer(name)}
    assert BACKBONES.keys() - of_timm == {"pixart", "sd3"} and "scenes-mae" in of_timm
    for source in (BACKBONES[name] for name in of_timm - {"scenes-mae"}):
        name = source.repository.split("/")[1]
        assert timm.is_model(name) and timm.get_pretrained_cfg(name).tag == name.split(".")[1]


def test_a_model_set_has_a_backbone_only_where_one_is_asked_for(mini):
    assert mini.backbone is None and set(mini.identity) == {"diffusion", "captioner", "clip"}
    assert set(sources("mini")) == set(sources("mini", backbone="dino-untrained")) == set(mini.identity)
    assert sources("mini", backbone="dino") == sources("mini") | dict(backbone=BACKBONES["dino"])
    asked = ModelSet("mini", "cpu", backbone="efficientnet-lite0-untrained")
    assert asked.identity == mini.identity | dict(
        backbone=dict(repository="fsdlib/tf_efficientnet_lite0.in1k", revision="untrained, seed 0", dtype="float32")
    )
    assert "backbone: fsdlib/tf_efficientnet_lite0.in1k at untrained" in str(asked)


def test_an_unknown_backbone_is_answered_with_those_there_are():
    with pytest.raises(ValueError, match="'sam': choose one of scenes-mae, efficientnet-lite0, .* or add -untrained"):
        load_models("mini", "cpu", backbone="sam")
    with pytest.raises(ValueError, match="'sam': choose one of scenes-mae, efficientnet-lite0, "):
        untrained_backbone("sam")


def test_a_backbone_that_is_not_there_is_answered_with_the_command_that_makes_or_brings_it(
    cache, tmp_path, monkeypatch
):
    with pytest.raises(ModelUnavailable, match="run `make fetch MODELS=mini BACKBONE=dino`"):
        load_models("mini", "cpu", backbone="dino")
    monkeypatch.setitem(BACKBONES, "efficientnet-lite0", replace(BACKBONES["efficientnet-lite0"], folder=tmp_path))
    with pytest.raises(ModelUnavailable, match="lacks config.json, model.safetensors: run `make backbone`"):
        load_models("mini", "cpu", backbone="efficientnet-lite0")


def saved(folder, architecture="test_vit", **changes):
    """A small network of timm's with random weights, in the layout of its hub."""
    model = timm.create_model(architecture, pretrained=False, num_classes=7).eval()
    keys = ("input_size", "interpolation", "mean", "std", "fixed_input_size")
    wanted = {key: model.pretrained_cfg[key] for key in keys} | dict(num_classes=7)
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(
        json.dumps(dict(architecture=architecture, num_classes=7, pretrained_cfg=wanted))
    )
    weights = {name: tensor for name, tensor in (model.state_dict() | changes).items() if tensor is not None}
    save_file(weights, folder / "model.safetensors")
    return model


@pytest.mark.parametrize("architecture", ["test_vit", "test_efficientnet"])
def test_a_backbone_is_loaded_from_timms_layout_with_what_it_wants_of_a_picture(tmp_path, architecture):
    model = saved(tmp_path, architecture)
    network = load_backbone(tmp_path)
    pixels = torch.rand(1, 3, network.side, network.side)
    with torch.no_grad():
        assert torch.equal(network.model(pixels), model(pixels))
    wanted = model.pretrained_cfg
    assert (network.side, network.interpolation) == (160, "bicubic")
    assert (network.mean, network.deviation) == (wanted["mean"], wanted["std"])
    assert not network.model.training and len(network.places) == len(model.feature_info)


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"norm.weight": None}, "norm.weight is missing"),
        ({"more": torch.ones(1)}, "more is no part of it"),
        ({"norm.weight": torch.ones(3)}, r"norm.weight is \(3,\) where the model has \(64,\)"),
        (
            {"norm.weight": torch.full((64,), torch.nan)},
            "norm.weight of the backbone holds numbers that are not finite",
        ),
    ],
)
def test_a_backbones_tensors_are_all_accounted_for(tmp_path, changes, said):
    saved(tmp_path, **changes)
    with pytest.raises(ModelUnavailable, match=f"are not those of the whole VisionTransformer .{said}"):
        load_backbone(tmp_path)


def test_the_embedded_backbone_is_the_manifests_and_the_other_mini_models_are_known_as_before(mini):
    asked = ModelSet("mini", "cpu", backbone="scenes-mae")
    assert {part: asked.identity[part] for part in mini.identity} == mini.identity
    manifest = json.loads((MINI / "manifest.json").read_text())
    assert (
        manifest["files"]["mae/model.safetensors"]
        == hashlib.sha256((MINI / "mae/model.safetensors").read_bytes()).hexdigest()
    )
    trained, twin = asked.load().backbone, untrained_backbone("scenes-mae")
    assert (
        trained.places == twin.places
        and trained.places[-1] == "blocks.5 (128 channels, stride 4)"
        and trained.side == 64
    )
    assert not torch.equal(trained.model.blocks[0].attn.qkv.weight, twin.model.blocks[0].attn.qkv.weight)
    assert sum(weight.numel() for weight in trained.model.parameters()) == 1_229_184


def test_a_count_of_trainings_batches_may_be_missing(tmp_path):
    saved(tmp_path, "test_efficientnet", **{"bn1.num_batches_tracked": None})
    assert load_backbone(tmp_path).places


@pytest.mark.parametrize("content", ["{", "{}", '{"architecture": "test_vit"}'])
def test_a_damaged_configuration_is_refused_in_one_sentence(tmp_path, content):
    saved(tmp_path)
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ModelUnavailable, match="the backbone in .* cannot be loaded"):
        load_backbone(tmp_path)


@pytest.mark.parametrize("name", ["no_such_network", "hf-hub:some/one", "local-dir:/somewhere"])
def test_a_configuration_that_names_no_network_of_timms_is_refused_and_nothing_is_asked_of_the_hub(tmp_path, name):
    saved(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(dict(architecture=name, pretrained_cfg={})))
    with pytest.raises(ModelUnavailable, match=f"config.json names '{name}', which timm .* does not know"):
        load_backbone(tmp_path)


def test_an_untrained_network_is_the_same_every_time_and_leaves_other_seeds_alone():
    torch.manual_seed(5)
    state = torch.get_rng_state()
    one, other = (untrained_backbone("efficientnet-lite0").model.state_dict() for _ in range(2))
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_made_backbone_is_the_packages():
    folder = BACKBONES["efficientnet-lite0"].folder
    if not (folder / "model.safetensors").is_file():
        pytest.skip(f"{folder} is not there: make backbone")
    trained = load_backbone(folder).model
    weights = trained.state_dict()
    assert len(weights) == 296 and weights["classifier.weight"].shape == (1000, 1280)
    assert (folder / "LICENSE").read_text().count("Apache") and trained.training is False


def test_tensors_of_a_package_take_the_models_names_in_their_order():
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 2))
    old = dict(zip(("a.weight", "a.bias", "b.weight", "b.bias"), model.state_dict().values()))
    assert list(renamed(old, model)) == list(model.state_dict())
    with pytest.raises(WrongPackage, match="holds 3 tensors and the model 4"):
        renamed(dict(list(old.items())[:3]), model)
    with pytest.raises(WrongPackage, match=r"a.bias of shape \(3,\) is not 0.weight"):
        renamed(dict(sorted(old.items())), model)


def test_a_file_that_is_not_the_known_package_is_refused(tmp_path):
    wheel = tmp_path / "one.whl"
    with zipfile.ZipFile(wheel, "w") as package:
        package.writestr("other", "")
    with pytest.raises(WrongPackage, match="does not hold"):
        make(wheel, tmp_path / "made")
    with zipfile.ZipFile(wheel, "w") as package:
        package.writestr(efficientnet.FILE, "no tensors")
    with pytest.raises(WrongPackage, match="has sha256 .*, not 579344248a93"):
        make(wheel, tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_the_untrained_twin_has_other_numbers_in_unet_and_captioner_alone(mini):
    other = untrained(mini)
    assert not torch.equal(other.diffusion.unet.conv_in.weight, mini.diffusion.unet.conv_in.weight)
    assert {k: v.shape for k, v in other.captioner.model.state_dict().items()} == {
        k: v.shape for k, v in mini.captioner.model.state_dict().items()
    }
    assert other.clip is mini.clip and other.diffusion.encoder is mini.diffusion.encoder
    assert "untrained" not in mini.identity["diffusion"] and other.identity["diffusion"]["untrained"] == ["unet"]


# ------------------------------------------------------------------------------------------------- the cache


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of the hub, offline."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def fill(cache, source, files):
    folder = cache / f"models--{source.repository.replace('/', '--')}" / "snapshots" / source.revision
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text("{}")
    return folder


@pytest.mark.filterwarnings("ignore:.*found in sys.modules")  # run_module's, of a module that was imported before
def test_offline_the_command_ends_in_one_sentence_with_model_revision_and_command(cache, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["fsdlib.models", "sd14"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("fsdlib.models", run_name="__main__")
    source = DIFFUSION["sd14"]
    assert re.fullmatch(
        f"error: model {source.repository} at revision {source.revision} cannot be loaded since the hub cannot be reached, gives no answer or refuses "
        r"\(\w+\): run `make fetch MODELS=sd14` where there is a network",
        ended.value.code,
    )
    assert capsys.readouterr().out == ""


def test_loading_offline_raises_the_same_sentence(cache):
    with pytest.raises(
        ModelUnavailable, match="CompVis/stable-diffusion-v1-4 at revision 133a221b.*`make fetch MODELS=sd14`"
    ):
        load_models("sd14", device="cpu")


def test_a_hub_that_cannot_be_reached_gives_the_same_sentence(cache, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the hub's client waits longer before every new try
    with pytest.raises(ModelUnavailable, match="timm/.*the hub cannot be reached.*`make fetch MODELS=sd14`"):
        locate(CLIPS["vit-b-32"], "MODELS=sd14")


@pytest.fixture(params=["the listing", "a file"])
def dropping_hub(request, monkeypatch):
    """A hub on this machine that announces a hundred bytes more than it sends, of the listing of files or of a file."""
    source = CLIPS["vit-b-32"]
    listing = json.dumps([dict(type="file", path=name, size=200, oid="0" * 40) for name in source.files]).encode()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.answer(b"", 200, ETag="0" * 40)

        def do_GET(self):
            if not self.path.startswith("/api/"):
                # with nothing the second time, since the hub's client goes on where it was for as long as anything comes
                self.answer(b"" if "Range" in self.headers else b"." * 100, 200)
            else:
                self.answer(listing, len(listing) + 100 * (request.param == "the listing"))

        def answer(self, content, length, **headers):
            self.send_response(200)
            for name, value in {"Content-Length": length, "X-Repo-Commit": source.revision, **headers}.items():
                self.send_header(name, str(value))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    address, template = f"http://127.0.0.1:{server.server_port}", "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + template)
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # as above
    yield source
    server.shutdown()
    server.server_close()


def test_a_hub_that_drops_the_connection_midway_gives_the_same_sentence(cache, dropping_hub):
    with pytest.raises(
        ModelUnavailable,
        match=r"timm/.*the hub cannot be reached, gives no answer or refuses \(RemoteProtocolError\): run `make fetch MODELS=sd14`",
    ):
        locate(dropping_hub, "MODELS=sd14")


def test_what_is_in_the_cache_is_used_and_the_commit_recorded(cache):
    source = CLIPS["vit-b-32"]
    folder = fill(cache, source, source.files)
    found, identity = locate(source, "MODELS=sd14")
    contents = json.dumps({name: hashlib.sha256(b"{}").hexdigest() for name in sorted(source.files)})
    assert found == folder and identity == dict(
        repository=source.repository,
        revision=source.revision,
        commit=source.revision,
        sha256=hashlib.sha256(contents.encode()).hexdigest(),
    )


def test_a_half_filled_cache_does_not_pass_for_whole(cache):
    source = CLIPS["vit-b-32"]
    fill(cache, source, source.files[:1])
    with pytest.raises(ModelUnavailable, match="cannot be loaded"):
        locate(source, "MODELS=sd14")


# ------------------------------------------------------------------------------------- the embedded models


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """The embedded models in a folder that a test may spoil; gives the folder and a source of the CLIP in it."""
    shutil.copytree(MINI, tmp_path / "mini")
    monkeypatch.setattr(models, "MINI", tmp_path / "mini")
    return tmp_path / "mini", replace(CLIPS["mini"], folder=tmp_path / "mini" / "clip")


def test_the_embedded_models_are_safetensors_and_text_in_30_megabytes():
    files = [path for path in MINI.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".txt", ".md"}
    assert sum(path.stat().st_size for path in files) <= 30e6


def test_the_embedded_models_are_laid_out_as_the_hub_lays_out_the_large_ones():
    for table, large in ((DIFFUSION, "sd14"), (CAPTIONERS, "blip-base"), (CLIPS, "vit-b-32")):
        assert table["mini"].files == table[large].files
        assert all((table["mini"].folder / file).is_file() for file in table["mini"].files)


def test_each_parts_identity_is_a_hash_of_its_own_files_alone(mini, copy):
    _folder, source = copy
    assert len({mini.identity[part]["sha256"] for part in ("diffusion", "captioner", "clip")}) == 3
    assert locate(source, "mini")[1] | dict(dtype="float32") == mini.identity["clip"]


def test_weights_that_were_tampered_with_are_refused(copy):
    folder, source = copy
    weights = folder / "clip" / "open_clip_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(
        ModelUnavailable, match="open_clip_model.safetensors has sha256 .* the manifest says .* restore the file"
    ):
        locate(source, "mini")


def test_weights_that_the_manifest_does_not_know_are_refused(copy):
    folder, source = copy
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["files"]["clip/open_clip_model.safetensors"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ModelUnavailable, match="the manifest says nothing"):
        locate(source, "mini")


def test_embedded_files_that_are_missing_are_named(copy):
    folder, source = copy
    (folder / "clip" / "vocab.json").unlink()
    (folder / "clip" / "open_clip_config.json").unlink()
    with pytest.raises(ModelUnavailable, match="lacks open_clip_config.json: restore the folder"):
        locate(source, "mini")


# ----------------------------------------------------------------------------------------------- no pickles


class Trap:
    """Leaves a mark where it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (Path.touch, (self.mark,))


@pytest.mark.parametrize(
    "load, part, weights, pickled",
    [
        (load_captioner, "blip", "model.safetensors", "pytorch_model.bin"),
        (
            load_diffusion,
            "stable-diffusion",
            "unet/diffusion_pytorch_model.safetensors",
            "unet/diffusion_pytorch_model.bin",
        ),
        (
            load_diffusion,
            "stable-diffusion",
            "vae/diffusion_pytorch_model.safetensors",
            "vae/diffusion_pytorch_model.bin",
        ),
        (load_diffusion, "stable-diffusion", "text_encoder/model.safetensors", "text_encoder/pytorch_model.bin"),
        (load_clip, "clip", "open_clip_model.safetensors", "open_clip_pytorch_model.bin"),
    ],
)
def test_a_pickle_in_place_of_safetensors_is_refused_unread(tmp_path, load, part, weights, pickled):
    shutil.copytree(MINI / part, tmp_path / part)
    (tmp_path / part / weights).unlink()
    torch.save(Trap(tmp_path / "mark"), tmp_path / part / pickled)
    with pytest.raises((OSError, ModelUnavailable)):
        load(tmp_path / part)
    assert not (tmp_path / "mark").exists()


# -------------------------------------------------------------------------------------------- what is loaded


def test_no_decoder_is_loaded(mini):
    names = [name for name, _ in mini.diffusion.encoder.named_parameters()]
    assert names and not [name for name in names if "decoder" in name or "post_quant" in name]


def test_the_posterior_is_the_whole_autoencoders(mini):
    whole = AutoencoderKL.from_pretrained(MINI / "stable-diffusion", subfolder="vae", torch_dtype=torch.float32).eval()
    pixels = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        ours, theirs = mini.diffusion.encoder.encode(pixels).latent_dist, whole.encode(pixels).latent_dist
    assert torch.equal(ours.mean, theirs.mean) and torch.equal(ours.std, theirs.std)


def test_the_whole_autoencoder_has_a_decoder_and_is_not_trained():
    whole = models.load_autoencoder("mini", device="cpu")
    assert (
        whole.decoder is not None
        and not whole.training
        and not any(parameter.requires_grad for parameter in whole.parameters())
    )


def test_nothing_loaded_is_in_training_mode(mini):
    parts = [
        mini.captioner.model,
        mini.clip.model,
        mini.diffusion.unet,
        mini.diffusion.encoder,
        *mini.diffusion.text_encoders,
    ]
    assert not [part for part in parts if part.training]


def test_the_picture_side_is_what_the_autoencoder_reduces_to_the_unets_latent(mini):
    side = mini.diffusion.side
    with torch.no_grad():
        mean = mini.diffusion.encoder.encode(torch.zeros(1, 3, side, side)).latent_dist.mean
    assert mean.shape == (1, 4, mini.diffusion.unet.config.sample_size, mini.diffusion.unet.config.sample_size)


def test_the_text_encoder_is_the_clips_text_tower(mini):
    texts = ["a cat", "", "two dogs next to a bus on a striped background"]
    clip, tokens = mini.clip.model, mini.clip.tokenizer(texts)
    with torch.no_grad():
        states = clip.transformer(clip.token_embedding(tokens) + clip.positional_embedding, attn_mask=clip.attn_mask)
        states = clip.ln_final(states).numpy()
    assert np.allclose(mini.diffusion.encode_text(texts), states, atol=1e-4)


def test_the_text_encoder_reads_with_the_clips_tokenizer():
    for file in ("vocab.json", "merges.txt"):
        assert (MINI / "clip" / file).read_bytes() == (MINI / "stable-diffusion" / "tokenizer" / file).read_bytes()


def test_the_embedded_clip_has_one_activation_and_its_text_encoder_the_same(mini):
    kinds = [type(module) for module in mini.clip.model.modules()]
    layers = kinds.count(open_clip.transformer.ResidualAttentionBlock)
    assert layers > 0 and kinds.count(torch.nn.GELU) == layers and open_clip.transformer.QuickGELU not in kinds
    assert mini.diffusion.text_encoders[0].config.hidden_act == "gelu"


def test_openais_clip_is_configured_with_quick_gelu():
    configuration = json.loads(
        (ROOT / "data/rehearsal/timm--vit_base_patch32_clip_224.openai/open_clip_config.json").read_text()
    )
    assert configuration["model_cfg"]["quick_gelu"] is True


def calls_of(module):
    counted = []
    return counted, module.register_forward_hook(
        lambda _, inputs, output: counted.append(len(output if torch.is_tensor(output) else output[0]))
    )


def test_the_diffusion_models_texts_are_encoded_once(mini):
    counted, hook = calls_of(mini.diffusion.text_encoders[0])
    with_repeats = mini.diffusion.encode_text(["a zebra once", "a zebra twice", "a zebra once"])
    again = mini.diffusion.encode_text(["a zebra twice", "a zebra thrice"])
    hook.remove()
    assert counted == [2, 1]
    assert np.array_equal(with_repeats[0], with_repeats[2]) and np.array_equal(with_repeats[1], again[0])


def test_the_clips_texts_are_encoded_once(mini):
    counted, hook = calls_of(mini.clip.model.token_embedding)
    with_repeats = mini.clip.encode_text(["a giraffe once", "a giraffe twice", "a giraffe once"])
    again = mini.clip.encode_text(["a giraffe twice", "a giraffe thrice"])
    hook.remove()
    assert counted == [2, 1]
    assert np.array_equal(with_repeats[0], with_repeats[2]) and np.array_equal(with_repeats[1], again[0])


def test_of_many_texts_the_last_are_kept_and_all_are_right(mini):
    diffusion, clip = replace(mini.diffusion), replace(mini.clip)
    texts = [f"the {number}th thing" for number in range(300)]
    together = diffusion.encode_text(texts)
    assert len(diffusion._encoded) == 256 and np.array_equal(diffusion.encode_text(texts[-2:]), together[-2:])
    assert np.allclose(diffusion.encode_text(texts[:2]), together[:2], atol=1e-5)
    states = diffusion._encoded[texts[-1]][1]
    assert states.untyped_storage().nbytes() == states.nbytes  # and not that of the batch it was encoded in
    clip._encoded.most = 10
    vectors = clip.encode_text(texts)
    assert list(clip._encoded) == texts[-10:] and np.allclose(clip.encode_text(texts[:3]), vectors[:3], atol=1e-5)


def test_a_class_list_is_encoded_once_whole_and_an_exchanged_part_forgets_it(mini):
    diffusion, classes = replace(mini.diffusion), Vocabulary.of(["cat", "hot dog"])
    first = ClassStrings().encodings(classes, diffusion)
    assert ClassStrings().encodings(Vocabulary.of(["cat", "hot dog"]), diffusion) is first
    assert ClassStrings(class_prompt="{}").encodings(classes, diffusion).shape == first.shape
    assert not np.array_equal(ClassStrings(class_prompt="{}").encodings(classes, diffusion), first)
    assert len(diffusion.of_classes) == 2 and len(replace(diffusion).of_classes) == 0


def test_the_clips_vectors_have_unit_length(mini, scenes):
    vectors = [mini.clip.encode_text(["cat", "dog"]), mini.clip.encode_images([scene.image for scene in scenes])]
    assert [v.dtype for v in vectors] == [np.float32] * 2 and all(
        np.allclose(np.linalg.norm(v, axis=1), 1, atol=1e-5) for v in vectors
    )


def clip_of(**vision):
    """A CLIP of random weights with the image tower that the options describe, and its usual preprocessing by a centre crop."""
    torch.manual_seed(0)
    text = dict(context_length=8, vocab_size=20, width=16, heads=2, layers=1)
    model = open_clip.CLIP(embed_dim=24, vision_cfg=vision, text_cfg=text).eval()
    preprocessing = dict(mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4), interpolation="bicubic")
    model.visual.preprocess_cfg = preprocessing
    return models.Clip(
        model,
        open_clip.image_transform(vision["image_size"], is_train=False, **preprocessing),
        None,
        torch.device("cpu"),
    )


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


TRANSFORMER = dict(image_size=64, patch_size=8, width=32, layers=2, head_width=16)
CONVOLUTIONAL = dict(image_size=64, timm_model_name="convnext_atto", timm_pool="", timm_proj="linear")


@pytest.mark.parametrize(
    "vision, grid",
    [(TRANSFORMER | dict(no_ln_pre=True, pool_type="avg"), 8), (CONVOLUTIONAL | dict(image_size=32), 1)],
    ids=["transformer", "convolutional"],
)
def test_the_mean_of_the_patches_is_the_whole_picture_where_the_tower_pools_by_the_mean(scenes, vision, grid):
    clip, images = clip_of(**vision), [scene.image for scene in scenes[:2]]
    patches = clip.encode_patches(images)
    assert patches.shape == (2, grid, grid, 24) and patches.dtype == np.float32
    assert np.allclose(unit(patches.mean(axis=(1, 2))), clip.encode_images(images), atol=1e-5)
    assert np.allclose(
        pooled_patches(patches[0], np.ones((1, 192, 192), bool)), clip.encode_images(images[:1]), atol=1e-5
    )


@pytest.mark.parametrize(
    "vision, grid", [(TRANSFORMER | dict(pool_type="tok"), 8), (CONVOLUTIONAL, 2)], ids=["transformer", "convolutional"]
)
def test_patches_cover_the_whole_picture_whatever_its_shape(vision, grid):
    clip = clip_of(**vision)
    wide = np.random.default_rng(0).integers(0, 256, (64, 128, 3)).astype(np.uint8)
    squashed = np.asarray(Image.fromarray(wide).resize((64, 64), Image.Resampling.BICUBIC))
    assert np.allclose(clip.encode_patches([wide]), clip.encode_patches([squashed]), atol=1e-3) and clip.encode_patches(
        [wide]
    ).shape == (1, grid, grid, 24)
    changed = wide.copy()
    changed[:, :16] = 0  # which a centre crop would not show
    assert np.abs(clip.encode_patches([changed]) - clip.encode_patches([wide])).max() > 1e-3


@pytest.mark.parametrize(
    "vision",
    [dict(layers=(1, 1, 1, 1), width=16, image_size=64), CONVOLUTIONAL | dict(timm_pool="rot_attn", timm_proj="")],
)
def test_a_tower_without_patches_is_refused_with_those_that_have_them(scene, vision):
    with pytest.raises(
        ValueError,
        match="no patches in the space of texts: take a CLIP with open_clip's vision transformer or a convolutional tower",
    ):
        clip_of(**vision).encode_patches([scene.image])


def test_half_precision_is_for_gpus_and_there_for_the_diffusion_model_alone():
    assert models.default_dtype("cuda:0") == torch.float16 and models.default_dtype("cpu") == torch.float32
    of_parts = {part: identity["dtype"] for part, identity in ModelSet("mini", "cuda").identity.items()}
    assert of_parts == dict(diffusion="float16", captioner="float32", clip="float32")


def test_the_crops_offset_is_rounded_down():
    # 335 x 224: 111 columns too many; half of them is 55.5, which torchvision rounds to the even 56
    columns = Image.fromarray(np.tile(np.arange(335) % 256, (224, 1)).astype(np.uint8))
    ours, others = (np.asarray(crop(columns))[0, 0] for crop in (CropRoundedDown(224), CenterCrop(224)))
    assert (ours, others) == (55, 56)
    even = Image.fromarray(np.zeros((224, 336), np.uint8))
    assert np.asarray(CropRoundedDown(224)(even)).shape == (224, 224)
    small = Image.fromarray(np.full((100, 300), 9, np.uint8))  # padded as torchvision pads
    assert np.array_equal(np.asarray(CropRoundedDown(224)(small)), np.asarray(CenterCrop(224)(small)))


def test_clip_sees_a_640_x_427_picture_as_the_old_preprocessing_showed_it(copy):
    folder = copy[0] / "clip"
    settings = (folder / "open_clip_config.json").read_text().replace("squash", "shortest")  # as OpenAI's has it
    (folder / "open_clip_config.json").write_text(settings)
    # short side to 64: 427 -> 64 and int(640 * 64 / 427) = 95; then columns (95 - 64) // 2 = 15 to 78
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (427, 640, 3)).astype(np.uint8))
    pixels = np.asarray(picture.resize((95, 64), Image.Resampling.BICUBIC))[:, 15:79] / np.float32(255)
    expected = (pixels - np.float32(open_clip.OPENAI_DATASET_MEAN)) / np.float32(open_clip.OPENAI_DATASET_STD)
    assert np.allclose(load_clip(folder).preprocess(picture).permute(1, 2, 0), expected, atol=1e-5)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float16, 0.01), (torch.bfloat16, 0.1)])
def test_half_precision_gives_nearly_the_same(mini, scene, dtype, tolerance):
    half = load_models("mini", device="cpu", dtype=dtype)
    assert {part["dtype"] for part in half.identity.values()} == {str(dtype).removeprefix("torch.")}
    taps, seeds = find_taps(mini.diffusion), [1]
    of_half, of_full = (
        [
            m.clip.encode_images([scene.image]),
            m.clip.encode_text(["a hat"]),
            *features(latents([scene.image], m.diffusion), m.diffusion, taps, seeds),
        ]
        for m in (half, mini)
    )
    for a, b in zip(of_half, of_full):
        assert a.dtype == np.float32 and np.abs(a - b).mean() < tolerance * np.abs(b).mean()
    assert caption([scene.image], half.captioner)[0]


def test_models_print_what_they_are(mini):
    assert str(mini).startswith("models 'mini' (diffusion: fsdlib/mini at ") and mini.identity["clip"]["sha256"][
        :12
    ] in str(mini)


# --------------------------------------------------------------------------------------------- weights that are not whole

WEIGHTS = {
    load_captioner: ("blip", "model.safetensors", "vision_model.post_layernorm.weight"),
    load_diffusion: ("stable-diffusion", "unet/diffusion_pytorch_model.safetensors", "conv_in.weight"),
    load_clip: ("clip", "open_clip_model.safetensors", "visual.class_embedding"),
}


@pytest.mark.parametrize("load", WEIGHTS, ids=lambda load: load.__name__)
def test_weights_without_a_tensor_or_with_one_of_another_shape_are_refused_by_its_name(load, tmp_path):
    folder, path, tensor = WEIGHTS[load]
    shutil.copytree(MINI / folder, tmp_path / folder)
    whole = load_file(tmp_path / folder / path)
    for changed in ({}, {tensor: whole[tensor][..., None]}):
        rest = {name: value for name, value in whole.items() if name != tensor}
        save_file(rest | changed, tmp_path / folder / path, {"format": "pt"})
        with pytest.raises(ModelUnavailable, match=f"{re.escape(tensor)}.*fetch it again"):
            load(tmp_path / folder)
