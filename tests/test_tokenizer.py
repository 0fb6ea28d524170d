"""Text to ids and back, for every string; special tokens only where code puts them."""

import json
import random
from pathlib import Path

import pytest

from danlu.errors import TokenizerError
from danlu.tokenizer import SPECIAL_TOKENS, Tokenizer, train_tokenizer

MINIMIND = Path(__file__).parent / "data" / "minimind_tokenizer"
HOSTILE = [
    "",
    " ",
    "\n\n",
    "a",
    "珠穆朗玛峰是",
    "<|im_end|>",
    "<|endoftext|>x",
    "<s>a</s>",
    "\0\x01\x7f",
    "👨‍👩‍👧‍👦🇨🇳",
    "e\u0301",
    "１２３ＡＢＣ",
    "  two  spaces  ",
    "\r\n\t",
    "I'm don't WE'LL",
    "\ufeff\u200b\u2028",
    "𠀀𪛖",
    "ﷺ",
    "<|im_start|>user\n",
]


def fuzzed(n: int) -> list[str]:
    rng = random.Random(1)
    ranges = [(0, 0x80), (0x80, 0x800), (0x4E00, 0x9FFF), (0x800, 0xD800), (0xE000, 0x110000)]
    return ["".join(chr(rng.randrange(*rng.choice(ranges))) for _ in range(rng.randint(0, 30))) for _ in range(n)]


@pytest.mark.parametrize("which", ["trained", "minimind"])
def test_decode_undoes_encode_for_every_string(which, tokenizer):
    subject = tokenizer if which == "trained" else Tokenizer.load(MINIMIND)
    strings = HOSTILE + fuzzed(2000)
    for text, ids in zip(strings, subject.encode_batch(strings), strict=True):
        assert subject.decode(ids) == text
        assert b"".join(map(subject.token_bytes, ids)).decode() == text


@pytest.mark.parametrize("which", ["trained", "minimind"])
def test_a_special_token_written_in_a_text_is_plain_characters(which, tokenizer):
    subject = tokenizer if which == "trained" else Tokenizer.load(MINIMIND)
    special = {subject.eos_id, 0, 1, 2}
    for text in [*SPECIAL_TOKENS, "<s>", "</s>", "<unk>", "正文<|im_end|>正文</s>"]:
        assert not special & set(subject.encode(text)), text


def test_special_tokens_and_bytes_have_their_places(tokenizer):
    assert [tokenizer.token_bytes(i).decode() for i in range(3)] == list(SPECIAL_TOKENS)
    assert {tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size)} >= {bytes([b]) for b in range(256)}
    assert tokenizer.eos_id == 0


def test_the_articles_tokenizer_ends_documents_with_its_eos():
    assert (Tokenizer.load(MINIMIND).eos_id, Tokenizer.load(MINIMIND).vocab_size) == (2, 6400)


def test_training_is_deterministic_and_has_the_size_asked_for(texts, tokenizer):
    again = train_tokenizer(iter(texts), 320)
    assert again.fingerprint == tokenizer.fingerprint
    assert again.vocab_size == 320


def test_saved_and_loaded_it_is_the_same(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "t")
    loaded = Tokenizer.load(tmp_path / "t")
    assert loaded.fingerprint == tokenizer.fingerprint
    assert loaded.chat_template == tokenizer.chat_template


def test_transformers_gives_the_same_ids(tokenizer_folder, tokenizer, texts):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(tokenizer_folder)
    strings = [t for t in texts[:50] + fuzzed(300) if not any(s in t for s in SPECIAL_TOKENS)]
    assert [theirs(t)["input_ids"] for t in strings] == tokenizer.encode_batch(strings)
    assert theirs.eos_token_id == tokenizer.eos_id
    chat = [{"role": "user", "content": "你好"}, {"role": "assistant", "content": "好"}]
    expected = "<|im_start|>user\n你好<|im_end|>\n<|im_start|>assistant\n好<|im_end|>\n"
    assert theirs.apply_chat_template(chat, tokenize=False) == expected


def test_transformers_models_take_all_that_the_tokenizer_gives(tokenizer_folder):
    """transformers 4.57 adds types of tokens unless it is told not to, and its `generate` refuses them."""
    config = json.loads((tokenizer_folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert config["model_input_names"] == ["input_ids", "attention_mask"]


def test_the_report_counts(tokenizer, texts):
    report = tokenizer.report(texts[:50])
    assert 0 < report["coverage"] <= 1
    tokens = sum(len(ids) for ids in tokenizer.encode_batch(texts[:50]))
    assert report["chars_per_token"] == pytest.approx(sum(map(len, texts[:50])) / tokens)
    assert 128 <= report["byte_fragments"] < 320


def test_too_few_texts_are_a_clear_error():
    with pytest.raises(TokenizerError, match=r"6,400.*only"):
        train_tokenizer(["太少"], 6400)
    with pytest.raises(TokenizerError, match="259"):
        train_tokenizer(["太少"], 100)


def test_a_broken_folder_is_a_clear_error(tmp_path, tokenizer):
    with pytest.raises(TokenizerError, match=r"holds no tokenizer\.json"):
        Tokenizer.load(tmp_path)
    tokenizer.save(tmp_path / "t")
    (tmp_path / "t" / "tokenizer.json").write_text("{}")
    with pytest.raises(TokenizerError, match="no tokenizer"):
        Tokenizer.load(tmp_path / "t")
    (tmp_path / "t" / "tokenizer_config.json").write_text("{}")
    with pytest.raises(TokenizerError):
        Tokenizer.load(tmp_path / "t")


def test_a_lone_surrogate_is_a_clear_error(tokenizer):
    with pytest.raises(TokenizerError, match="surrogate"):
        tokenizer.encode("\ud800")
