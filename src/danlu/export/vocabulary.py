"""A tokenizer as llama.cpp reads it: entries with their kinds, merges, marks, and the name of its pre-tokeniser.

llama.cpp does not read how a text is cut before bytes are merged: it knows some ways by name. A tokenizer is exact
there only if its way is one of these and nothing else in it changes ids; `tests/export/test_llama.py` compares both
programs on thousands of texts made to tell the names apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from danlu.data.template import ChatTemplate
from danlu.errors import TokenizerError
from danlu.tokenizer import QWEN2_SPLIT, Tokenizer

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5
"""Kinds of entries, as GGUF numbers them."""
_BYTES = {"type": "ByteLevel", "add_prefix_space": False}
_KNOWN_CUTS = {
    "qwen2": [
        {"type": "Split", "pattern": {"Regex": QWEN2_SPLIT}, "behavior": "Isolated", "invert": False},
        {**_BYTES, "use_regex": False},
    ],
    "gpt-2": [{**_BYTES, "use_regex": True}],
}
"""What cuts a text, by llama.cpp's names."""
_PLAIN_MODEL = {
    "type": "BPE",
    "dropout": None,
    "continuing_subword_prefix": None,
    "end_of_word_suffix": None,
    "byte_fallback": False,
    "ignore_merges": False,
}


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Entries by id, and the marks: what ends a text, a turn and a document; `adds_mark`: prompts get one in front."""

    cut: str
    tokens: list[str]
    kinds: list[int]
    merges: list[str]
    end: int
    end_of_turn: int
    document: int
    adds_mark: bool


def vocabulary_of(tokenizer: Tokenizer, entries: int, folder: Path) -> Vocabulary:
    """Describe a tokenizer for a model of so many entries; those it lacks become unused ones.

    Raises TokenizerError, naming what differs, for a tokenizer that llama.cpp would read texts differently with.
    """
    structure = tokenizer.structure
    cut = _name_of_cut(structure.get("pre_tokenizer"))
    different = [what for what, wrong in _differences(tokenizer, structure).items() if wrong]
    different += [] if cut else ["a pre-tokeniser that is neither Qwen2's nor GPT-2's"]
    if cut is None or different:
        raise TokenizerError(
            f"{folder}: llama.cpp would give other ids than its tokenizer, which has {', '.join(different)}. Use "
            "--format hf, for programs that read tokenizer.json. What danlu tokenizer train makes is exact in both"
        )
    tokens, kinds = _entries(tokenizer, structure, entries)
    return Vocabulary(
        cut,
        tokens,
        kinds,
        [" ".join(pair) for pair in structure["model"]["merges"]],
        tokenizer.eos_id,
        end_of_turn(tokenizer),
        tokenizer.document_id,
        begins_with_mark(tokenizer),
    )


def begins_with_mark(tokenizer: Tokenizer) -> bool:
    """Tell whether a prompt to this tokenizer's model begins with the document mark, as `danlu generate` begins it.

    So it is where texts are continued: documents began so in training. Conversations did not: where eos ends a turn,
    the model was taught to answer. One mark for both, as in some tokenizers, does not tell; then none is put there.
    """
    if tokenizer.chat_template is None:
        return True
    return tokenizer.eos_id == tokenizer.document_id != end_of_turn(tokenizer)


def _name_of_cut(pre_tokenizer: dict[str, Any] | None) -> str | None:
    """Return llama.cpp's name of a pre-tokeniser, or None for one that it does not know."""
    steps = (pre_tokenizer or {}).get("pretokenizers", [pre_tokenizer])
    plain = [{key: value for key, value in (step or {}).items() if key != "trim_offsets"} for step in steps]
    return next((name for name, cuts in _KNOWN_CUTS.items() if cuts == plain), None)


def _differences(tokenizer: Tokenizer, structure: dict[str, Any]) -> dict[str, bool]:
    """Return what would change ids, beside the pre-tokeniser."""
    model = {key: structure["model"].get(key) or default for key, default in _PLAIN_MODEL.items()}
    every_byte = {tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size)}
    stripping = ("lstrip", "rstrip", "single_word")
    return {
        f"a normaliser ({(structure.get('normalizer') or {}).get('type')})": structure.get("normalizer") is not None,
        "another model than plain byte-level BPE": model != _PLAIN_MODEL,
        "another decoder than bytes": (structure.get("decoder") or {}).get("type") != "ByteLevel",
        "no entry for some bytes": not {bytes([byte]) for byte in range(256)} <= every_byte,
        "added entries that take spaces or whole words": any(
            token[key] for token in structure["added_tokens"] if not token["special"] for key in stripping
        ),
    }


def _entries(tokenizer: Tokenizer, structure: dict[str, Any], entries: int) -> tuple[list[str], list[int]]:
    tokens, kinds = [""] * entries, [UNUSED] * entries
    for token, number in tokenizer.vocabulary.items():
        tokens[number], kinds[number] = token, NORMAL
    for added in structure["added_tokens"]:
        kinds[added["id"]] = CONTROL if added["special"] else USER_DEFINED
    for number, kind in enumerate(kinds):
        if kind == UNUSED:  # llama.cpp wants a name for each; no entry made of bytes holds a space
            tokens[number] = f"<unused {number}>"
    return tokens, kinds


def end_of_turn(tokenizer: Tokenizer) -> int:
    """Return the mark that ends a turn by the chat template, or eos where there is none that does."""
    if tokenizer.chat_template is None:
        return tokenizer.eos_id
    try:
        return tokenizer.special_ids[ChatTemplate(tokenizer).end_of_turn()]
    except TokenizerError:  # a template that cannot be learned from; other programs may still read it
        return tokenizer.eos_id
