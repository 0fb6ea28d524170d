"""The `Modelfile` that `ollama create` reads: which file, how a conversation is written, where to stop, how to draw."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from danlu.export.vocabulary import Vocabulary
from danlu.tokenizer import CHATML

_CHATML = """{{ range .Messages }}<|im_start|>{{ .Role }}
{{ .Content }}<|im_end|>
{{ end }}<|im_start|>assistant
"""
"""danlu's own chat template, in Go's language for templates."""
_DRAWS = ("temperature", "top_p")


def modelfile(
    gguf_name: str, vocabulary: Vocabulary, chat_template: str | None, sampling: Mapping[str, Any], context: int
) -> str:
    """Return the text. A model that was not taught to answer continues texts, whatever template its tokenizer has.

    Another chat template than danlu's is left to ollama, which looks for one like it in the .gguf.
    """
    lines = [f"FROM ./{gguf_name}"]
    if vocabulary.adds_mark:  # ollama puts the mark in front, as the .gguf says
        lines.append('TEMPLATE """{{ .Prompt }}"""')
    elif chat_template == CHATML:
        lines.append(f'TEMPLATE """{_CHATML}"""')
    ends = dict.fromkeys((vocabulary.end, vocabulary.end_of_turn, vocabulary.document))
    lines += [f'PARAMETER stop "{vocabulary.tokens[mark]}"' for mark in ends]
    lines += [f"PARAMETER {key} {sampling[key]}" for key in _DRAWS if isinstance(sampling.get(key), int | float)]
    lines.append(f"PARAMETER num_ctx {context}")
    return "\n".join(lines) + "\n"
