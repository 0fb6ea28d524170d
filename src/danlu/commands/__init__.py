"""One short module a verb. Each has `run(argv) -> int`: parse, import the heavy part, call it, print."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from danlu.errors import ConfigError, DanluError, DataError, TokenizerError

if TYPE_CHECKING:
    from danlu.data.sources import Corpus
    from danlu.data.template import ChatTemplate
    from danlu.infer.sampling import Sampling
    from danlu.model import Model
    from danlu.tokenizer import Tokenizer


@dataclass(frozen=True)
class SourceOptions:
    """How sources are read: shared by every verb that takes some."""

    text_key: str = "text"
    """key (or column) that holds the text, in .jsonl and .parquet"""
    txt_unit: Literal["file", "line", "blank"] = "file"
    """what a document is in .txt: the file, a line, or what blank lines separate"""
    skip_bad: bool = False
    """pass over records and files that cannot be read, and count them, instead of stopping at the first"""

    def corpus(self, sources: Sequence[str]) -> Corpus:
        """Open sources as one corpus."""
        from danlu.data.sources import Corpus

        return Corpus(sources, self.text_key, self.txt_unit, self.skip_bad)


@dataclass(frozen=True)
class DeviceOptions:
    """Where a model computes: shared by every verb that has one write text."""

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """where to compute; auto: cuda, else mps, else cpu"""
    precision: Literal["fp32", "bf16", "auto"] = "fp32"
    """compute type; auto: bf16 where this machine is much faster at it"""
    threads: int = 0
    """CPU threads; 0: as many as PyTorch takes (fewer are faster where other programs keep the cores busy)"""

    def load(self, folder: Path) -> tuple[Model, Tokenizer]:
        """Load a model onto the device that was asked for, and its tokenizer."""
        import torch

        from danlu.checkpoint import load_model, load_tokenizer
        from danlu.train.devices import Machine, device_of, faster_precision, prepare

        if self.threads < 0 or self.threads > 1024:
            raise ConfigError(f"--threads {self.threads}: must be between 0 and 1024")
        if self.threads:
            torch.set_num_threads(self.threads)
        precision = faster_precision(device_of(self.device)) if self.precision == "auto" else self.precision
        machine = Machine(self.device, precision, torch.get_num_threads(), gemm_flops=0.0)
        device = prepare(machine, deterministic=False)
        model, tokenizer = load_model(folder, device=device.type), load_tokenizer(folder)
        model.compute_dtype, model.compiled = machine.dtype, True
        return model, tokenizer


@dataclass(frozen=True)
class DrawOptions(DeviceOptions):
    """How text is drawn: shared by every verb that writes some."""

    temperature: float = 0.8
    """0: always the likeliest token"""
    top_k: int = 0
    """draw from the k likeliest only; 0: off"""
    top_p: float = 0.95
    """draw from the smallest set with this probability; 1: off"""
    min_p: float = 0.0
    """draw from tokens at least this share as likely as the likeliest; 0: off"""
    repetition_penalty: float = 1.0
    """makes seen tokens less likely; 1: off"""
    no_repeat_ngram: int = 0
    """no run of so many tokens comes twice; 0: off"""
    seed: int = 0
    """of the random draws"""

    def sampling(self) -> Sampling:
        """Return the settings of a draw. Raises ConfigError for one that makes no sense."""
        from danlu.infer.sampling import Sampling

        return Sampling(
            self.temperature, self.top_k, self.top_p, self.min_p, self.repetition_penalty, self.no_repeat_ngram
        )


def required(value: Any, flag: str, what: str) -> Any:
    """Return a flag's value. Raises DanluError where it was not given."""
    if value is None:
        raise DanluError(f"{flag} is missing: {what}")
    return value


def require_utf8(text: str, where: str) -> None:
    """Raise DataError for bytes of another encoding, which Python hands on as lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        byte = ord(text[error.start]) & 0xFF
        raise DataError(
            f"{where}, character {error.start + 1}: byte {byte:#04x} is no UTF-8. Set the terminal to UTF-8, "
            "or convert the text (iconv -f GBK -t UTF-8)"
        ) from None


def chat_template(folder: Path, tokenizer: Tokenizer) -> ChatTemplate:
    """Return the template that a model is asked by. Raises TokenizerError where there is none."""
    from danlu.data.template import ChatTemplate

    if tokenizer.chat_template is None:
        raise TokenizerError(
            f"{folder}: its tokenizer has no chat_template, so it cannot be asked. Fine-tune it with one "
            f"(in tokenizer_config.json; danlu finetune), or continue texts: danlu generate {folder}"
        )
    return ChatTemplate(tokenizer)


def finish(result: dict[str, Any], text: str, as_json: bool) -> int:
    """Print the human text on stdout and, with --json, exactly one JSON object as the last line."""
    if text:
        print(text, flush=True)
    if as_json:
        print(json.dumps(result, ensure_ascii=False, default=str), flush=True)
    return 0
