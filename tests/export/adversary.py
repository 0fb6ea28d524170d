"""A tokenizer with which every wrong cut shows, and texts full of places to cut wrongly."""

import json
import random
import unicodedata

from danlu.tokenizer import CHATML, SPECIAL_TOKENS, Tokenizer, train_tokenizer

_EDGES = "aZé0123٣Ⅷ 　\t\n\r\v\f'’sStTrReEvVmMlLdD.,!?，。中国人的山水é्👍​ \x85\u2028_-+=·《》１Ａ"
_RANGES = [(0, 0x80), (0x80, 0x800), (0x4E00, 0x9FFF), (0x800, 0xD800), (0xE000, 0x10000), (0x20000, 0x2A6DF)]


def adversary(gpt2_cut: bool = False) -> Tokenizer:
    """Every pair of UTF-8's bytes is an entry, in no order: merges would cross each boundary between pre-tokens."""
    structure = train_tokenizer(["a"], 259).structure
    characters = [t for t in structure["model"]["vocab"] if t not in SPECIAL_TOKENS]
    pairs = [[a, b] for a in characters for b in characters]
    random.Random(0).shuffle(pairs)
    entries = [*SPECIAL_TOKENS, *characters, *map("".join, pairs)]
    structure["model"] |= {"vocab": {token: i for i, token in enumerate(entries)}, "merges": pairs}
    if gpt2_cut:
        structure["pre_tokenizer"] = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
        structure["pre_tokenizer"]["trim_offsets"] = True
    config = {"eos_token": SPECIAL_TOKENS[0], "pad_token": SPECIAL_TOKENS[0], "chat_template": CHATML}
    return Tokenizer(json.dumps(structure), config)


def fuzzed(count: int) -> list[str]:
    """Texts of characters that Unicode has had since 2002: of those of 2024 (Unicode 16) the two programs differ."""
    rng = random.Random(7)
    return ["".join(_character(rng) for _ in range(rng.randint(1, 40))) for _ in range(count)]


def _character(rng: random.Random) -> str:
    if rng.random() < 0.6:
        return rng.choice(_EDGES)
    while True:
        character = chr(rng.randrange(*rng.choice(_RANGES)))
        if unicodedata.ucd_3_2_0.category(character) != "Cn" and character != "ſ":
            return character
