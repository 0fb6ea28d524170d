"""What `danlu export --format gguf` gives in llama.cpp, and how near it is.

usage: python benchmarks/export.py RUN SHARDS   (a run that continues texts; needs `pip install -e ".[llama]"`)

1. What the mark in front of a prompt is worth: bits per character of the first 32 tokens of held-out documents.
2. Each type of weights: bytes, bits per character of held-out documents by llama.cpp.
3. Every code point of Unicode between neighbours of all kinds: which ones the two programs cut differently.
"""

from __future__ import annotations

import itertools
import math
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import llama_cpp
import numpy as np
import torch

from danlu.checkpoint import load_model, load_tokenizer
from danlu.config import Qwen3Config
from danlu.data.shards import open_shards
from danlu.export.gguf import DTYPES, write_gguf
from danlu.export.vocabulary import vocabulary_of
from danlu.model import Model, build_model
from danlu.tokenizer import Tokenizer

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "export"))
from adversary import adversary

_DOCUMENTS, _FIRST = 200, 32
Scorer = Callable[[list[int]], torch.Tensor]


def bits_per_char(documents: list[list[int]], tokenizer: Tokenizer, score: Scorer, skip: int = 0) -> float:
    """Of each document alone; its first `skip` tokens are read and not scored. `score` gives logits after the mark."""
    nats = characters = 0.0
    for ids in documents:
        rows = score(ids).float().log_softmax(-1)[skip : len(ids)]
        nats -= float(rows[torch.arange(len(rows)), torch.tensor(ids[skip:])].sum())
        characters += len(tokenizer.decode(ids[skip:]))
    return nats / math.log(2) / characters


@torch.no_grad()
def marks(model: Model, tokenizer: Tokenizer, documents: list[list[int]]) -> None:
    first = [ids[: _FIRST + 1] for ids in documents if len(ids) > _FIRST]
    mark = tokenizer.document_id

    def marked(ids: list[int]) -> torch.Tensor:
        return model(torch.tensor([[mark, *ids]])).logits_BTV[0]

    def bare(ids: list[int]) -> torch.Tensor:
        logits_TV = model(torch.tensor([ids])).logits_BTV[0]
        return torch.cat([logits_TV[:1], logits_TV])  # row i is what follows i tokens; the first is not scored

    for name, score in (("with the mark", marked), ("without", bare)):
        print(f"first {_FIRST} tokens of {len(first)} documents, {name}: "
              f"{bits_per_char(first, tokenizer, score, skip=1):.3f} bits/char")  # fmt: skip


def types(model: Model, tokenizer: Tokenizer, documents: list[list[int]], folder: Path) -> None:
    mark = tokenizer.document_id

    @torch.no_grad()
    def own(ids: list[int]) -> torch.Tensor:
        return model(torch.tensor([[mark, *ids]])).logits_BTV[0]

    print(f"danlu fp32: {bits_per_char(documents, tokenizer, own):.4f} bits/char")
    vocabulary = vocabulary_of(tokenizer, model.vocab_size, folder)
    for dtype in DTYPES:
        path = folder / f"{dtype}.gguf"
        write_gguf(path, model, vocabulary, dtype, {"name": "x"}, None)
        options = {"n_ctx": model.context, "n_threads": 1, "n_threads_batch": 1}  # its threads wait busily
        opened = llama_cpp.Llama(str(path), logits_all=True, verbose=False, **options)

        def score(ids: list[int], llm: llama_cpp.Llama = opened) -> torch.Tensor:
            llm.reset()
            llm.eval([mark, *ids])
            return torch.tensor(np.array(llm.scores[: len(ids) + 1]))

        print(f"llama.cpp {dtype}: {path.stat().st_size:,} bytes, "
              f"{bits_per_char(documents, tokenizer, score):.4f} bits/char")  # fmt: skip


def code_points(folder: Path) -> None:
    points = [code for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    for gpt2_cut in (False, True):
        tokenizer = adversary(gpt2_cut)
        sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1}
        tiny = build_model(Qwen3Config(**sizes, head_dim=16, intermediate_size=16), tokenizer.vocab_size, 64)
        vocabulary = vocabulary_of(tokenizer, tokenizer.vocab_size, folder)
        path = folder / f"{vocabulary.cut}.gguf"
        write_gguf(path, tiny, vocabulary, "f32", {"name": "x"}, None)
        llm = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
        texts = [f"a{c}a1{c} {c}{c}\n{c}\n'{c}!{c} ." for c in map(chr, points)]
        different = [
            point
            for point, text, ids in zip(points, texts, tokenizer.encode_batch(texts), strict=True)
            if llm.tokenize(text.encode(), add_bos=False) != ids
        ]
        print(f"{vocabulary.cut}: {len(different):,} of {len(points):,} code points differ: {_spans(different)}")


def _spans(points: list[int]) -> str:
    spans: list[list[int]] = []
    for point in points:
        if spans and point - spans[-1][1] <= 0x80:
            spans[-1][1] = point
        else:
            spans.append([point, point])
    return " ".join(f"{first:X}-{last:X}" for first, last in spans)


def main(run: Path, shards: Path) -> None:
    model, tokenizer = load_model(run), load_tokenizer(run)
    held_out = itertools.islice(open_shards(shards).split("validation").documents(), _DOCUMENTS)
    documents = [ids.tolist()[: model.context - 1] for ids in held_out if len(ids)]
    marks(model, tokenizer, documents)
    with tempfile.TemporaryDirectory() as folder:
        types(model, tokenizer, documents, Path(folder))
        code_points(Path(folder))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
