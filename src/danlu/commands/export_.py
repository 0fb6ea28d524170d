"""`danlu export`: a checkpoint for other programs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tyro.conf import Positional

from danlu.commands import finish, required
from danlu.configure import parse_flags
from danlu.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from danlu.model import Model

DTYPES = {"gguf": ("f32", "f16", "bf16", "q8_0"), "hf": ("fp32", "bf16"), "article-pt": ("fp32",)}
"""What weights may be written as; without --dtype the first, which is what a checkpoint holds."""


@dataclass(frozen=True)
class Options:
    """Write a checkpoint as GGUF (llama.cpp, ollama), as a Hugging Face folder with a card, or as the article's .pt."""

    checkpoint: Positional[Path | None] = None
    """checkpoint folder or run folder"""
    format: str | None = None
    """gguf: one file, and a Modelfile for ollama beside it (NAME.Modelfile where there is one already);
    hf: a folder to publish; article-pt: the article's .pt"""
    dtype: str | None = None
    """type of the weights: f32, f16, bf16 or q8_0 in gguf, fp32 or bf16 in hf; without it nothing is rounded"""
    out: Path | None = None
    """what to make: for gguf a file that ends in .gguf, or a folder for it; for hf a folder; for article-pt a file"""
    license: str = ""
    """your model's licence, for its card and its GGUF, as Hugging Face writes it (apache-2.0, say)"""
    json: bool = False
    """print one JSON object as the last line"""


@dataclass(frozen=True)
class Made:
    """What an export made: a file or a folder, and the bytes of every file."""

    path: Path
    files: dict[str, int]

    @property
    def bytes(self) -> int:
        """Return the bytes of the file or of the whole folder."""
        return self.files.get(self.path.name, sum(self.files.values()))


def run(argv: list[str]) -> int:
    """Parse, load, write, print."""
    options = parse_flags(Options, argv, "danlu export")
    folder = required(options.checkpoint, "CKPT", "name a checkpoint folder or a run folder")
    form = required(options.format, "--format", f"name one of {', '.join(DTYPES)}")
    out = required(options.out, "--out", "name the file or folder to make")
    if form not in DTYPES:
        raise ConfigError(f"--format {form}: there is none. Known: {', '.join(DTYPES)}")
    dtype = options.dtype or DTYPES[form][0]
    if dtype not in DTYPES[form]:
        raise ConfigError(f"--dtype {dtype}: {form} takes {' or '.join(DTYPES[form])}")
    made = _WRITERS[form](folder, out, dtype, options.license)
    result = {"path": str(made.path), "format": form, "dtype": dtype, "bytes": made.bytes, "files": made.files}
    return finish(result, f"{form}, {dtype}, {made.bytes:,} bytes  ->  {made.path}", options.json)


def _gguf(folder: Path, out: Path, dtype: str, licence: str) -> Made:
    """Write the .gguf and its Modelfile: beside each other, whole, or not at all."""
    from danlu import storage
    from danlu.checkpoint import GENERATION, load_tokenizer, resolve
    from danlu.export.gguf import require_gguf, require_qwen3, write_gguf
    from danlu.export.modelfile import modelfile
    from danlu.export.vocabulary import vocabulary_of

    require_gguf()
    is_file = out.suffix == ".gguf"
    path = out if is_file else out / f"{out.absolute().name}-{dtype}.gguf"
    storage.require_absent(out)
    beside = path.parent / "Modelfile"
    if is_file and beside.exists():  # of another .gguf
        beside = path.with_suffix(".Modelfile")
        storage.require_absent(beside)
    model = require_qwen3(_load(folder), folder)
    tokenizer, source = load_tokenizer(folder), resolve(folder)
    vocabulary = vocabulary_of(tokenizer, model.vocab_size, folder)
    about = {"name": path.stem if is_file else out.absolute().name} | ({"license": licence} if licence else {})
    sampling = storage.read_json(source / GENERATION, CheckpointError) if (source / GENERATION).is_file() else {}
    text = modelfile(path.name, vocabulary, tokenizer.chat_template, sampling, model.context)

    def write(weights: Path, settings: Path) -> None:
        write_gguf(weights, model, vocabulary, dtype, about, tokenizer.chat_template)
        settings.write_text(text, encoding="utf-8")

    if is_file:
        with storage.new_file(beside) as settings, storage.new_file(path) as weights:
            write(weights, settings)
    else:
        with storage.new_folder(out) as scratch:
            write(scratch / path.name, scratch / beside.name)
    return Made(path, {path.name: path.stat().st_size, beside.name: beside.stat().st_size})


def _hf(folder: Path, out: Path, dtype: str, licence: str) -> Made:
    from danlu import __version__, storage
    from danlu.checkpoint import load_tokenizer, resolve
    from danlu.export.card import Subject, card
    from danlu.export.folder import export_folder
    from danlu.export.recorded import recorded
    from danlu.export.vocabulary import begins_with_mark

    storage.require_absent(out)
    model, tokenizer, source = _load(folder), load_tokenizer(folder), resolve(folder)
    marks = {number: token for token, number in tokenizer.special_ids.items()}
    subject = Subject(
        out.absolute().name,
        model.model_type,
        sum(p.numel() for p in model.parameters()),
        model.vocab_size,
        model.context,
        dtype,
        marks.get(tokenizer.document_id, "") if begins_with_mark(tokenizer) else "",
        licence,
        __version__,
    )
    export_folder(out, source, model, tokenizer, dtype, card(subject, recorded(source)))
    return Made(out, {path.name: path.stat().st_size for path in sorted(out.iterdir())})


def _article(folder: Path, out: Path, dtype: str, licence: str) -> Made:
    from danlu import storage
    from danlu.export.article import export_article

    if licence:
        raise ConfigError("--license: the article's .pt has no place for it. Leave it out")
    storage.require_absent(out)
    export_article(out, _load(folder), folder)
    return Made(out, {out.name: out.stat().st_size})


def _load(folder: Path) -> Model:
    """Load a checkpoint's model. Raises CheckpointError for weights that no program could use."""
    from danlu.checkpoint import load_model

    model = load_model(folder)
    for name, weight in model.state_dict().items():
        if not bool(weight.isfinite().all()):
            raise CheckpointError(f"{folder}: {name!r} holds weights that are not finite. Export an earlier checkpoint")
    return model


_WRITERS: dict[str, Callable[[Path, Path, str, str], Made]] = {"gguf": _gguf, "hf": _hf, "article-pt": _article}
