"""What llama.cpp is told of a tokenizer, and which tokenizers it cannot be told of."""

import copy
import json
from pathlib import Path

import pytest

from danlu.errors import TokenizerError
from danlu.export.vocabulary import CONTROL, NORMAL, UNUSED, USER_DEFINED, begins_with_mark, vocabulary_of
from danlu.tokenizer import SPECIAL_TOKENS, TURN_END, Tokenizer

MINIMIND = Path(__file__).parent.parent / "data" / "minimind_tokenizer"
HERE = Path("folder")


def changed(tokenizer, **changes):
    """The same tokenizer with other parts; `model__x` is a part of its model."""
    structure = copy.deepcopy(tokenizer.structure)
    for key, value in changes.items():
        table = structure["model"] if key.startswith("model__") else structure
        table[key.removeprefix("model__")] = value
    return Tokenizer(json.dumps(structure), tokenizer.config)


def test_every_entry_keeps_its_id_and_what_the_model_has_more_is_unused(tokenizer):
    made = vocabulary_of(tokenizer, 330, HERE)
    assert len(made.tokens) == len(made.kinds) == len(set(made.tokens)) == 330
    assert {made.tokens[i]: i for i in range(320)} == tokenizer.vocabulary
    assert made.kinds == [CONTROL] * 3 + [NORMAL] * 317 + [UNUSED] * 10
    assert made.merges == [" ".join(pair) for pair in tokenizer.structure["model"]["merges"]]
    assert tokenizer.vocabulary.keys().isdisjoint(made.tokens[320:])


def test_a_tokenizer_of_danlu_is_cut_as_qwen2(tokenizer):
    assert vocabulary_of(tokenizer, 320, HERE).cut == "qwen2"


def test_the_articles_tokenizer_is_cut_as_gpt2():
    made = vocabulary_of(Tokenizer.load(MINIMIND), 6400, HERE)
    assert (made.cut, made.end, made.document, made.end_of_turn) == ("gpt-2", 2, 2, 2)


def test_a_text_begins_with_the_mark_and_a_conversation_does_not(tokenizer):
    base, chat = (vocabulary_of(t, 320, HERE) for t in (tokenizer, tokenizer.ending_with(TURN_END)))
    assert (base.end, base.document, base.end_of_turn, base.adds_mark) == (0, 0, 2, True)
    assert (chat.end, chat.document, chat.end_of_turn, chat.adds_mark) == (2, 0, 2, False)


def test_one_mark_for_turns_and_documents_does_not_tell_so_none_is_added():
    assert not begins_with_mark(Tokenizer.load(MINIMIND))


def test_without_a_chat_template_texts_are_continued(tokenizer):
    plain = Tokenizer(json.dumps(tokenizer.structure), {**tokenizer.config, "chat_template": None})
    assert begins_with_mark(plain)


def test_added_entries_that_are_no_marks_are_found_in_texts(tokenizer):
    added = [{"id": 320, "content": "<think>", "special": False, "normalized": False}]
    added[0] |= dict.fromkeys(("lstrip", "rstrip", "single_word"), False)
    known = changed(tokenizer, added_tokens=tokenizer.structure["added_tokens"] + added)
    assert vocabulary_of(known, 321, HERE).kinds[320] == USER_DEFINED
    added[0]["lstrip"] = True
    stripping = changed(tokenizer, added_tokens=tokenizer.structure["added_tokens"] + added)
    with pytest.raises(TokenizerError, match="take spaces"):
        vocabulary_of(stripping, 321, HERE)


def split(regex, behavior="Isolated"):
    cut = {"type": "Split", "pattern": {"Regex": regex}, "behavior": behavior, "invert": False}
    rest = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return {"type": "Sequence", "pretokenizers": [cut, rest]}


DIFFERENT = {
    "nfc": ({"normalizer": {"type": "NFC"}}, "normaliser \\(NFC\\)"),
    "other regex": ({"pre_tokenizer": split(r"\p{N}{1,3}|\p{L}+|.")}, "pre-tokeniser"),
    "none": ({"pre_tokenizer": None}, "pre-tokeniser"),
    "prefix space": (
        {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}},
        "pre-tokeniser",
    ),
    "digits first": (
        {
            "pre_tokenizer": {
                "type": "Sequence",
                "pretokenizers": [
                    {"type": "Digits", "individual_digits": True},
                    {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
                ],
            }
        },
        "pre-tokeniser",
    ),
    "decoder": ({"decoder": None}, "decoder"),
    "whole words first": ({"model__ignore_merges": True}, "another model"),
    "byte fallback": ({"model__byte_fallback": True}, "another model"),
    "dropout": ({"model__dropout": 0.1}, "another model"),
}


@pytest.mark.parametrize("what", DIFFERENT)
def test_what_would_give_other_ids_is_refused_by_name(what, tokenizer):
    changes, word = DIFFERENT[what]
    with pytest.raises(TokenizerError, match=word + ".*--format hf"):
        vocabulary_of(changed(tokenizer, **changes), 320, HERE)


def test_a_tokenizer_without_some_byte_is_refused(tokenizer):
    vocabulary = tokenizer.structure["model"]["vocab"]
    without = {token: i for token, i in vocabulary.items() if token != "!"}
    merges = [pair for pair in tokenizer.structure["model"]["merges"] if "!" not in "".join(pair)]
    kept = {token: i for token, i in without.items() if "!" not in token}
    assert SPECIAL_TOKENS[0] in kept
    with pytest.raises(TokenizerError, match="no entry for some bytes"):
        vocabulary_of(changed(tokenizer, model__vocab=kept, model__merges=merges), 320, HERE)
