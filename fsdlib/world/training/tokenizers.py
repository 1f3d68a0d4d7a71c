"""The words of the embedded world, and the tokenizers of CLIP, of the diffusion model and of the captioner."""

import json
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import BertTokenizerFast, BlipImageProcessor

from fsdlib.project import write_atomically
from fsdlib.world.scenes import world_classes
from fsdlib.world.training.data import MEAN, STD

PROMPT = "a picture of "


TEMPLATES = ("{}", "{}", "a photo of {}", "A photo of {}", "a picture of {}", "a photo of a {}", "a drawing of a {}")


PATTERN_WORDS = {
    "plain": ("plain background", "background", "wall"),
    "spots": ("spots", "spotted background", "background"),
    "stripes": ("stripes", "striped background", "floor"),
    "checks": ("checks", "checked background", "floor"),
}


# Things the world does not hold. CLIP learns that no picture shows them, as a large CLIP knows what is absent.
ABSENT = (
    "sky",
    "grass",
    "road",
    "water",
    "sea",
    "mountain",
    "building",
    "sand",
    "snow",
    "ceiling",
    "curtain",
    "window",
    "door",
    "street",
    "field",
)


def world_words() -> list[str]:
    """Every word that captions, class names, templates and patterns use, sorted."""
    texts = [word for c in world_classes() for word in (c.name, *c.synonyms)]
    plurals = [word + "s" for text in texts for word in text.split()] + ["buses", "couches", "people", "butterflies"]
    texts += [*TEMPLATES, *ABSENT, *plurals, *(word for words in PATTERN_WORDS.values() for word in words)]
    texts += [
        PROMPT,
        "an two three four and next to with on in front of behind standing spotted striped checked wall floor background plain",
    ]
    return sorted({word for text in texts for word in text.lower().replace("{}", " ").split()})


def write_clip_tokenizer(folder: Path) -> None:
    """CLIP's byte-level BPE, trained on the world's words: its own 512 byte tokens, merges, the two specials."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    endings = [byte + "</w>" for byte in alphabet]
    # Naming the endings ahead numbers them in this order; else the trainer numbers them as a hash table yields the
    # words, and merges that are equally frequent come out in another order, thus with other numbers, at every run.
    trainer = trainers.BpeTrainer(
        vocab_size=4096,
        initial_alphabet=alphabet,
        special_tokens=endings,
        end_of_word_suffix="</w>",
        min_frequency=1,
        show_progress=False,
    )
    trained = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    trained.train_from_iterator(world_words(), trainer)
    merges = [tuple(merge) for merge in json.loads(trained.to_str())["model"]["merges"]]
    tokens = alphabet + endings
    tokens += dict.fromkeys(left + right for left, right in merges if left + right not in tokens)
    tokens += ["<|startoftext|>", "<|endoftext|>"]  # the end has the highest number: CLIP pools there
    folder = Path(folder)
    write_atomically(folder / "vocab.json", json.dumps({token: number for number, token in enumerate(tokens)}))
    write_atomically(folder / "merges.txt", "#version: 0.2\n" + "".join(f"{left} {right}\n" for left, right in merges))
    special = dict(
        bos_token="<|startoftext|>", eos_token="<|endoftext|>", unk_token="<|endoftext|>", pad_token="<|endoftext|>"
    )
    write_atomically(folder / "special_tokens_map.json", json.dumps(special, indent=2))
    config = special | dict(
        tokenizer_class="CLIPTokenizer",
        model_max_length=32,
        do_lower_case=True,
        errors="replace",
        add_prefix_space=False,
    )
    write_atomically(folder / "tokenizer_config.json", json.dumps(config, indent=2))


_BERT_ROLES = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")


def write_captioner_tokenizer(folder: Path) -> None:
    """BERT's WordPiece over the world's words, with the letters for everything else and BLIP's [DEC] to begin with."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,'-"
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokens = dict.fromkeys(
        [*special, *letters, *("##" + letter for letter in letters), *world_words(), "[DEC]", "[ENC]"]
    )
    write_atomically(Path(folder) / "vocab.txt", "\n".join(tokens) + "\n")
    tokenizer = BertTokenizerFast(vocab=str(Path(folder) / "vocab.txt"), model_max_length=64)
    tokenizer.add_special_tokens({"bos_token": "[DEC]"})
    tokenizer.save_pretrained(folder)
    write_atomically(
        Path(folder) / "special_tokens_map.json",
        json.dumps(dict(bos_token="[DEC]", **dict(zip(_BERT_ROLES, special))), indent=2),
    )
    BlipImageProcessor(
        size=dict(height=64, width=64), image_mean=MEAN.tolist(), image_std=STD.tolist()
    ).save_pretrained(folder)
