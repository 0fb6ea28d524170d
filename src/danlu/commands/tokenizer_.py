"""`danlu tokenizer train`: learn a tokenizer from a corpus."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from danlu import log, storage
from danlu.commands import SourceOptions, finish, required
from danlu.configure import parse_flags
from danlu.errors import ConfigError

_SAMPLE_DOCUMENTS = 2000


@dataclass(frozen=True)
class Options(SourceOptions):
    """Train a byte-level BPE tokenizer (Qwen2's pre-tokeniser) on cleaned, deduplicated text."""

    sources: Positional[tuple[str, ...]] = ()
    """files, folders, globs, or `demo`"""
    vocab_size: int = 6400
    """entries, special tokens included"""
    out: Path | None = None
    """folder to make"""
    min_chars: int = 1
    """drop documents with fewer characters"""
    json: bool = False
    """print one JSON object as the last line"""


def run(argv: list[str]) -> int:
    """Parse, train, report how well it fits."""
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: danlu tokenizer train SRC… --vocab-size N --out DIR [--json]\n\nSee danlu tokenizer train --help")
        return 0
    if argv[0] != "train":
        raise ConfigError(f"danlu tokenizer: {argv[0]!r} is nothing it does. Known: train")
    options = parse_flags(Options, argv[1:], "danlu tokenizer train")
    out = required(options.out, "--out", "name the folder to write the tokenizer to")
    storage.require_absent(out)
    result = train(options, out)
    text = (
        f"{result['vocab_size']:,} entries, {result['chars_per_token']:.3f} characters a token, "
        f"coverage {result['coverage']:.2%}, {result['byte_fragments']:,} byte fragments  ->  {out}"
    )
    return finish(result, text, options.json)


def train(options: Options, out: Path) -> dict[str, Any]:
    """Stream the cleaned texts into the trainer; the report is made on the first documents."""
    from danlu.data.clean import Counts, clean, default_rules
    from danlu.data.dedup import ExactDedup
    from danlu.tokenizer import train_tokenizer

    counts = Counts()

    def texts() -> Iterator[str]:
        corpus = options.corpus(options.sources)
        rules = [*default_rules(options.min_chars), ExactDedup()]
        for document in clean(corpus.track("reading"), rules, counts):
            yield document.text
        log.say(f"learning {options.vocab_size:,} entries from {counts.characters:,} characters")

    tokenizer = train_tokenizer(texts(), options.vocab_size)
    tokenizer.save(out)
    corpus = options.corpus(options.sources)
    sample = [d.text for d in islice(clean(corpus, default_rules(options.min_chars), Counts()), _SAMPLE_DOCUMENTS)]
    return tokenizer.report(sample) | {"tokenizer": str(out), "documents": counts.kept}
