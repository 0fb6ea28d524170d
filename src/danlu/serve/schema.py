"""What a client may ask, as strict models. Refused: a setting that would change the answer, and a name that nobody
knows (OpenAI refuses these too; a misspelt setting would otherwise do nothing in silence).
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from danlu.data.chat import Message
from danlu.infer.sampling import Sampling
from danlu.serve.errors import ApiError

MOST_CHOICES = 128
"""Answers to one request: prompts × n."""
MOST_STOPS, LONGEST_STOP = 4, 1_000
"""Stop strings of a request, characters of one."""
MOST_LIKELIEST = 20

_HARMLESS: Mapping[str, tuple[Any, ...]] = {
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "logit_bias": ({},),
    "modalities": (["text"],),
    "audio": (),
    "web_search_options": (),
    "reasoning_effort": ("none",),
    "verbosity": (),
    "suffix": ("",),
    "best_of": (1,),
    "use_beam_search": (False,),
    "length_penalty": (1,),
    "ignore_eos": (False,),
    "min_tokens": (0,),
    "stop_token_ids": ([],),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": (),
    "guided_grammar": (),
    "structured_outputs": (),
    "chat_template": (),
    "chat_template_kwargs": ({},),
    "continue_final_message": (False,),
    "add_generation_prompt": (True,),
}
"""Settings that danlu has not, each with the values (besides null) that ask for nothing."""
_IGNORED = {
    *("user", "metadata", "store", "service_tier", "parallel_tool_calls", "prediction"),
    *("prompt_cache_key", "prompt_cache_options", "prompt_cache_retention", "safety_identifier"),
    *("request_id", "priority", "skip_special_tokens", "spaces_between_special_tokens"),
}
"""Settings of OpenAI's and vLLM's clients that change no answer of danlu's."""
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


def _refuse_unsupported(body: Any, known: set[str]) -> Any:
    for name, value in body.items() if isinstance(body, Mapping) else ():
        if name in _HARMLESS:
            if value is not None and value not in _HARMLESS[name]:
                raise ApiError(400, f"{name} is not supported", param=name, code="unsupported_parameter")
        elif name not in known | _IGNORED:
            close = difflib.get_close_matches(name, known, 1)
            advice = f" Did you mean {close[0]}?" if close else ""
            raise ApiError(400, f"{name[:100]} is no setting.{advice}", param=name[:100], code="unknown_parameter")
    return body


def _text(value: Any) -> Any:
    """Join the parts of a message's content, which may only be text."""
    if not isinstance(value, list):
        return value
    for part in value:
        if not isinstance(part, Mapping) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise ValueError("must be a string, or parts of type text with a string each")
    return "".join(part["text"] for part in value)


def _stops(value: Any) -> Any:
    strings = [value] if isinstance(value, str) else value
    if strings is None:
        return ()
    if not isinstance(strings, list) or not all(isinstance(s, str) and s for s in strings):
        raise ValueError("must be a string that is not empty, or a list of such strings")
    if len(strings) > MOST_STOPS or any(len(s) > LONGEST_STOP for s in strings):
        raise ValueError(f"at most {MOST_STOPS} strings of at most {LONGEST_STOP:,} characters")
    return tuple(strings)


def _prompts(value: Any) -> Any:
    """Make a list of prompts, each a text or ids, of whatever stands for one or several."""

    def are_ids(ids: Any) -> bool:
        return isinstance(ids, list) and bool(ids) and all(type(i) is int for i in ids)

    prompts = [value] if isinstance(value, str) or are_ids(value) else value
    if not isinstance(prompts, list) or not prompts or not all(isinstance(p, str) or are_ids(p) for p in prompts):
        raise ValueError("must be a string, a list of token ids, or a list of such prompts, and not empty")
    return prompts


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, allow_inf_nan=False)


class StreamOptions(_Strict):
    """`include_usage`: a last chunk tells the counts."""

    include_usage: bool | None = None


class ChatMessage(_Strict):
    """A turn. What only tools use must be empty."""

    role: str
    content: Annotated[str, BeforeValidator(_text)]

    @model_validator(mode="before")
    @classmethod
    def _no_tools(cls, turn: Any) -> Any:
        for name in ("tool_calls", "function_call", "audio") if isinstance(turn, Mapping) else ():
            if turn.get(name):
                raise ApiError(
                    400, f"messages with {name} are not supported", param="messages", code="unsupported_value"
                )
        return turn

    def message(self) -> Message:
        """Return it in danlu's words. Raises ApiError for a role that there is not."""
        if self.role not in _ROLES:
            wanted = ", ".join(_ROLES)
            raise ApiError(400, f"role {self.role!r} is none of {wanted}", param="messages", code="unsupported_value")
        return Message(_ROLES[self.role], self.content)


class Ask(_Strict):
    """What both kinds of request have. Null means the default, which is the model's for `temperature` and the like."""

    model: str | None = None
    n: int | None = Field(None, ge=1, le=MOST_CHOICES)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    stop: Annotated[tuple[str, ...], BeforeValidator(_stops)] = ()
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1, le=2**31)
    min_p: float | None = Field(None, ge=0, le=1)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    repetition_penalty: float | None = Field(None, gt=0, le=10)
    no_repeat_ngram: int | None = Field(None, ge=0, le=1_000)

    @model_validator(mode="before")
    @classmethod
    def _refuse(cls, body: Any) -> Any:
        return _refuse_unsupported(body, set(cls.model_fields))

    @model_validator(mode="after")
    def _options_of_a_stream(self) -> Ask:
        if self.stream_options is not None and not self.stream:
            raise ApiError(400, "stream_options needs stream: true", param="stream_options", code="invalid_value")
        return self

    def sampling(self, default: Sampling) -> Sampling:
        """Lay the request's settings over the model's. Raises ConfigError for those that make no sense."""
        names = (
            *("temperature", "top_k", "top_p", "min_p", "repetition_penalty"),
            *("no_repeat_ngram", "presence_penalty", "frequency_penalty"),
        )
        asked = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        if asked.get("top_k") == -1:  # vLLM's way to say off
            asked["top_k"] = 0
        return replace(default, **asked)

    @property
    def tells_usage(self) -> bool:
        """Tell whether a stream ends with its counts."""
        return bool(self.stream_options and self.stream_options.include_usage)


class ChatAsk(Ask):
    """The body of `POST /v1/chat/completions`."""

    kind: ClassVar[Literal["chat"]] = "chat"
    messages: list[ChatMessage] = Field(min_length=1)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MOST_LIKELIEST)

    @model_validator(mode="after")
    def _alternatives_of_what(self) -> ChatAsk:
        if self.top_logprobs and not self.logprobs:
            raise ApiError(400, "top_logprobs needs logprobs: true", param="top_logprobs", code="invalid_value")
        return self


class CompletionAsk(Ask):
    """The body of `POST /v1/completions`."""

    kind: ClassVar[Literal["completion"]] = "completion"
    prompt: Annotated[list[str | list[int]], BeforeValidator(_prompts)]
    max_tokens: int | None = Field(None, ge=0)
    echo: bool | None = None
    logprobs: int | None = Field(None, ge=0, le=MOST_LIKELIEST)
