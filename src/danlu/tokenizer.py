"""Byte-level BPE: train one, or use any existing `tokenizer.json`.

A trained tokenizer has the pre-tokeniser that llama.cpp knows as `qwen2`: a regular expression, then bytes; no
normaliser (cleaning normalises), no begin mark, every byte in the alphabet. A special token written literally in a
text encodes as plain characters: only templates and the packer insert special ids.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from danlu import log, storage
from danlu.errors import TokenizerError

END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIAL_TOKENS = (END_OF_TEXT, TURN_START, TURN_END)
TOKENIZER_JSON, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"

PROBES = (
    "e\u0301 \u212b",  # composed by NFC
    "ﬁ１Ａ",  # made ordinary by NFKC
    " Two  spaces\t\n\n",
    "▁",  # a space, to SentencePiece
    *map(chr, (*range(0x80), *range(0x80, 0x800, 0x3F), *range(0x800, 0xD800, 0xFFF), 0xE000, 0xFFFC)),
    *map(chr, range(0x10000, 0x110000, 0x3FFF)),
)
"""Texts that a tokenizer with a normaliser, unknown tokens or missing bytes changes; every byte of UTF-8 is in them."""

QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How a text is cut before bytes are merged."""
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


class Tokenizer:
    """Text to ids and back.

    `decode(encode(x)) == x` for every string that UTF-8 can hold, if the tokenizer was trained here; one from elsewhere
    may have a normaliser or unknown tokens (see `changed`). `vocab_size` is the largest id + 1, which is what a model
    needs: some files leave ids out.
    """

    def __init__(self, json_text: str, config: dict[str, Any], where: str = TOKENIZER_JSON):
        self._json_text, self.config = json_text, config
        try:
            self._backend = Backend.from_str(json_text)
        except Exception as error:
            raise TokenizerError(f"{where}: is no tokenizer that the tokenizers library reads ({error})") from None
        self._backend.encode_special_tokens = True
        self._backend.no_truncation()
        self._backend.no_padding()
        self.vocab_size = 1 + max(self._backend.get_vocab(with_added_tokens=True).values(), default=-1)
        self.fingerprint = hashlib.sha256(json_text.encode()).hexdigest()
        self.eos_token = token_text(config.get("eos_token"))
        eos_id = self._backend.token_to_id(self.eos_token) if self.eos_token else None
        if eos_id is None:
            raise TokenizerError(
                f"{where}: its {TOKENIZER_CONFIG} names no eos_token that is an entry. Documents need one to end with"
            )
        self.eos_id: int = eos_id
        self.document_id = self.special_ids.get(END_OF_TEXT, eos_id)
        """The mark that a document begins and ends with: eos, but where eos ends a turn of a conversation."""
        self.end_ids = list(dict.fromkeys((eos_id, self.document_id)))
        """The marks at which generation stops."""
        self.chat_template: str | None = config.get("chat_template")

    @classmethod
    def load(cls, folder: Path) -> Tokenizer:
        """Read `tokenizer.json` and `tokenizer_config.json`. Raises TokenizerError where one is missing or broken."""
        path = folder / TOKENIZER_JSON
        if not path.is_file():
            raise TokenizerError(f"{folder}: holds no {TOKENIZER_JSON}. Make one: danlu tokenizer train SRC --out DIR")
        config_path = folder / TOKENIZER_CONFIG
        config = storage.read_json(config_path, TokenizerError)
        template = folder / "chat_template.jinja"
        if template.is_file() and not config.get("chat_template"):
            config["chat_template"] = template.read_text(encoding="utf-8")
        try:
            return cls(path.read_text(encoding="utf-8"), config, str(path))
        except (OSError, UnicodeDecodeError) as error:
            raise TokenizerError(f"{path}: cannot be read ({error})") from None

    def ending_with(self, token: str) -> Tokenizer:
        """Return this tokenizer with another eos: the end of a turn, for a model that answers."""
        return Tokenizer(self._json_text, {**self.config, "eos_token": token})

    def write_files(self, folder: Path) -> None:
        """Write the two files into a folder; transformers is told that models here take no types of tokens."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / TOKENIZER_JSON).write_text(self._json_text, encoding="utf-8")
        config = {"model_input_names": ["input_ids", "attention_mask"], **self.config}
        text = json.dumps(config, ensure_ascii=False, indent=2)
        (folder / TOKENIZER_CONFIG).write_text(text + "\n", encoding="utf-8")

    def save(self, folder: Path) -> None:
        """Make a tokenizer folder, whole or not at all. Raises OutputError where it exists."""
        with storage.new_folder(folder) as scratch:
            self.write_files(scratch)

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text; special tokens in it are plain characters."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Encode on all cores."""
        try:
            encodings = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        except (UnicodeEncodeError, TypeError):
            raise TokenizerError("a text holds a lone surrogate, which UTF-8 cannot hold. Clean it first") from None
        return [encoding.ids for encoding in encodings]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids; bytes that are no whole character become U+FFFD."""
        return b"".join(self.token_bytes(i) for i in ids).decode("utf-8", errors="replace")

    def changed(self, texts: Sequence[str]) -> list[tuple[str, str]]:
        """Return each text that decoding does not give back, and what it gives instead."""
        after = [self.decode(ids) for ids in self.encode_batch(texts)]
        return [pair for pair in zip(texts, after, strict=True) if pair[0] != pair[1]]

    def token_bytes(self, token_id: int) -> bytes:
        """Return an entry's bytes, which may be part of a character, or none for an id that was left out.

        Raises TokenizerError for an id beyond the largest.
        """
        if not 0 <= token_id < len(self._bytes):
            raise TokenizerError(f"id {token_id}: the tokenizer has {self.vocab_size:,} entries")
        return self._bytes[token_id]

    @cached_property
    def structure(self) -> dict[str, Any]:
        """Return the contents of `tokenizer.json`, in today's form of it whatever the file's was."""
        return json.loads(self._backend.to_str())

    @cached_property
    def vocabulary(self) -> dict[str, int]:
        """Return every entry and its id."""
        return self._backend.get_vocab(with_added_tokens=True)

    @cached_property
    def special_ids(self) -> dict[str, int]:
        """Map the special tokens' texts to their ids."""
        return {token.content: i for i, token in self._backend.get_added_tokens_decoder().items() if token.special}

    @cached_property
    def _bytes(self) -> list[bytes]:
        byte_of = {char: byte for byte, char in _byte_characters().items()}
        added = {i: token.content for i, token in self._backend.get_added_tokens_decoder().items()}
        table = [b""] * self.vocab_size
        for piece, i in self._backend.get_vocab(with_added_tokens=True).items():
            plain = i not in added and all(char in byte_of for char in piece)
            text = added.get(i) or (None if plain else self._backend.decode([i], skip_special_tokens=False))
            table[i] = bytes(byte_of[char] for char in piece) if text is None else text.encode()
        return table

    def report(self, texts: Sequence[str]) -> dict[str, Any]:
        """Say how well the entries fit the texts.

        `chars_per_token`; `coverage`, the share of the texts' characters that lie whole inside one token;
        `byte_fragments`, the entries that are not whole characters by themselves.
        """
        characters = tokens = whole = 0
        for text, ids in zip(texts, self.encode_batch(texts), strict=True):
            characters, tokens = characters + len(text), tokens + len(ids)
            whole += sum(len(self.token_bytes(i).decode("utf-8", errors="ignore")) for i in ids)
        return {
            "vocab_size": self.vocab_size,
            "chars_per_token": characters / max(1, tokens),
            "coverage": whole / max(1, characters),
            "byte_fragments": sum(not _is_text(piece) for piece in self._bytes),
        }


def train_tokenizer(texts: Iterable[str], vocab_size: int = 6400) -> Tokenizer:
    """Learn `vocab_size` entries from a stream of texts; say on stderr how long it took.

    Memory: some 230 bytes for each character of Chinese text (of different runs of letters, which seldom recur).
    Raises TokenizerError where the texts are too few for that many.
    """
    smallest = 256 + len(SPECIAL_TOKENS)
    if vocab_size < smallest:
        raise TokenizerError(f"--vocab-size {vocab_size:,}: the bytes and special tokens alone are {smallest}")
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(  # pyright: ignore[reportAttributeAccessIssue]
        [
            pre_tokenizers.Split(Regex(QWEN2_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS],
        initial_alphabet=sorted(_byte_characters().values()),
        show_progress=False,
    )
    started = time.monotonic()
    # the library's own bars have no time left, and print empty lines on stdout where it is no terminal
    with log.console().status(f"counting runs of letters, then merging them into {vocab_size:,} entries"):
        backend.train_from_iterator(texts, trainer)
    learned = backend.get_vocab_size(with_added_tokens=True)
    if learned != vocab_size:
        raise TokenizerError(
            f"--vocab-size {vocab_size:,}: the texts yield only {learned:,} entries. Give more text, or ask for fewer"
        )
    log.say(f"learned {learned:,} entries in {time.monotonic() - started:.1f} s")
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END_OF_TEXT,
        "pad_token": END_OF_TEXT,
        "bos_token": None,
        "unk_token": None,
        "additional_special_tokens": [TURN_START, TURN_END],
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 1_000_000_000,
        "chat_template": CHATML,
    }
    return Tokenizer(backend.to_str(pretty=True), config)


def token_text(token: Any) -> str | None:
    """Return a special token's text; some files write it as a table."""
    return token.get("content") if isinstance(token, dict) else token


def _byte_characters() -> dict[int, str]:
    """Map every byte to the printable character that byte-level BPE writes it as."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}


def _is_text(piece: bytes) -> bool:
    try:
        piece.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
