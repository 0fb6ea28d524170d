"""The model that is served: its name, how it is asked, what it draws with unless a request says otherwise."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from danlu.data.chat import Message
from danlu.data.template import ChatTemplate
from danlu.errors import ConfigError, TokenizerError
from danlu.infer.engine import Engine
from danlu.infer.sampling import Sampling
from danlu.serve.errors import ApiError
from danlu.tokenizer import Tokenizer

PLAIN = {"system": "{}\n", "user": "问：{}\n", "assistant": "答：{}\n"}
"""Turns as lines of text, for a model that was not taught to answer: it goes on after `答：`."""
PLAIN_STOP = "\n问："
_FROM_FILE = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt's ids, begin mark included, and what ends its answer besides the request's own stop strings."""

    ids: tuple[int, ...]
    text: str
    marks: int = 0
    """How many of the ids, in front, are no part of the text: the begin mark."""
    stop: tuple[str, ...] = ()
    end_ids: tuple[int, ...] | None = None


class Served:
    """What requests are read with. A folder's `generation_config.json` gives the sampling that they do not name."""

    def __init__(self, name: str, engine: Engine, generation: Mapping[str, Any]):
        """Take a model as its engine reads it. Raises ConfigError for defaults that make no sense."""
        self.name, self.tokenizer = name, engine.tokenizer
        self.context, self.entries = engine.length, engine.entries
        self.parameters = sum(parameter.numel() for parameter in engine.model.parameters())
        self.precision = "fp32" if engine.model.compute_dtype.itemsize == 4 else "bf16"
        self.created = int(time.time())
        self.sampling = default_sampling(generation)
        self.template = taught_template(self.tokenizer, generation)
        end = [] if self.template is None else [self.tokenizer.special_ids[self.template.end_of_turn()]]
        self._end_ids = tuple(dict.fromkeys((*self.tokenizer.end_ids, *end)))

    def card(self) -> dict[str, Any]:
        """Return the model as `GET /v1/models` lists it."""
        return {
            "id": self.name,
            "object": "model",
            "created": self.created,
            "owned_by": "danlu",
            "max_model_len": self.context,
            "danlu": {
                "context": self.context,
                "parameters": self.parameters,
                "precision": self.precision,
                "chat": self.template is not None,
                "sampling": asdict(self.sampling),  # what a request that names nothing is answered with
            },
        }

    def require_name(self, name: str | None) -> None:
        """Raise ApiError where a request names another model; it may name none."""
        if name is not None and name != self.name:
            message = f"there is no model {name!r} here, only {self.name!r}"
            raise ApiError(404, message, param="model", code="model_not_found")

    def conversation(self, messages: Sequence[Message]) -> Prompt:
        """Return the ids after which the answer begins. Raises ApiError where they are more than the context holds."""
        if self.template is not None:
            ids = tuple(self.template.prompt(messages))
            return self._fitting(Prompt(ids, "", end_ids=self._end_ids), "messages")
        text = "".join(PLAIN[m.role].format(m.content) for m in messages) + PLAIN["assistant"].partition("{")[0]
        ids = (self.tokenizer.document_id, *self.tokenizer.encode(text))
        return self._fitting(Prompt(ids, text, stop=(PLAIN_STOP,)), "messages")

    def text(self, prompt: str | Sequence[int]) -> Prompt:
        """Return a text as it is read, after the begin mark; ids are read as they are.

        Raises ApiError where they are more than the context holds, or no ids of this model.
        """
        if isinstance(prompt, str):
            ids = (self.tokenizer.document_id, *self.tokenizer.encode(prompt))
            return self._fitting(Prompt(ids, prompt, marks=1), "prompt")
        wrong = next((i for i in prompt if not 0 <= i < self.entries), None)
        if wrong is not None:
            message = f"token id {wrong}: the model has {self.entries:,} entries"
            raise ApiError(400, message, param="prompt", code="invalid_value")
        fitting = self._fitting(Prompt(tuple(prompt), ""), "prompt")
        return Prompt(fitting.ids, self.tokenizer.decode(prompt))

    def _fitting(self, prompt: Prompt, param: str) -> Prompt:
        if len(prompt.ids) > self.context:
            message = f"{param}: {len(prompt.ids):,} tokens, but the model's context holds {self.context:,}"
            raise ApiError(400, message, param=param, code="context_length_exceeded")
        return prompt


def default_sampling(generation: Mapping[str, Any]) -> Sampling:
    """Lay what `generation_config.json` says over danlu's own defaults. Raises ConfigError for what is no sampling."""
    said = {name: generation[name] for name in _FROM_FILE if generation.get(name) is not None}
    for name, value in said.items():
        if isinstance(value, bool) or not isinstance(value, int if name == "top_k" else int | float):
            raise ConfigError(f"generation_config.json: {name} {value!r} is no number")
    return Sampling(**said)


def taught_template(tokenizer: Tokenizer, generation: Mapping[str, Any]) -> ChatTemplate | None:
    """Return the template of a model that was taught to answer: that stops where the template ends a turn."""
    if tokenizer.chat_template is None:
        return None
    template = ChatTemplate(tokenizer)
    try:
        end = template.end_of_turn()
    except TokenizerError:
        return None
    said = generation.get("eos_token_id")
    ends = said if isinstance(said, list) else [said]
    return template if end == tokenizer.eos_token or tokenizer.special_ids[end] in ends else None
