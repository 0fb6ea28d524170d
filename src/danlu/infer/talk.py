"""A talk with a model: what was said so far, as much of it as the context holds."""

from __future__ import annotations

from collections.abc import Callable

from danlu import log
from danlu.data.chat import Message
from danlu.data.template import ChatTemplate
from danlu.errors import DataError
from danlu.infer.generate import Generated, generate
from danlu.infer.sampling import Sampling
from danlu.model import Model
from danlu.tokenizer import Tokenizer

_ROOM = 4
"""At least one part in so many of the context is kept for the answer, before old turns are."""


class Talk:
    """Turns of user and assistant after an optional system message; an answer ends where the template ends a turn.

    `turns` and `system` may be read; `reset` and the setting of `system` take effect with the next question.
    """

    def __init__(
        self,
        model: Model,
        template: ChatTemplate,
        *,
        system: str = "",
        max_new_tokens: int = 512,
        sampling: Sampling | None = None,
        seed: int = 0,
    ):
        self.model, self.template, self.system = model, template, system
        self.max_new_tokens, self.sampling, self.seed = max_new_tokens, sampling, seed
        self.turns: list[Message] = []
        self._asked = 0
        self._tokenizer: Tokenizer = template.tokenizer.ending_with(template.end_of_turn())

    def reset(self) -> None:
        """Forget all turns; the system message stays, and the random draws begin anew."""
        self.turns, self._asked = [], 0

    def ask(self, question: str, on_text: Callable[[str], object] = lambda _: None) -> Generated:
        """Answer a question; `on_text` is told every piece of the answer as it comes.

        Where the context has too little room left, the oldest turns are forgotten, which is said on stderr. Raises
        DataError for a question that does not fit alone. What was said when a KeyboardInterrupt comes is kept.
        """
        ids = self._prompt(question)
        said: list[str] = []

        def take(_: int, piece: str) -> None:
            said.append(piece)
            on_text(piece)

        try:
            return generate(
                self.model,
                self._tokenizer,
                ids,
                max_new_tokens=self.max_new_tokens,
                sampling=self.sampling,
                seed=self.seed + self._asked,
                on_text=take,
            )
        finally:
            self._asked += 1
            if said:
                self.turns += [Message("user", question), Message("assistant", "".join(said))]

    def _prompt(self, question: str) -> list[int]:
        """Return the ids to answer after, having forgotten as many of the oldest turns as it takes."""
        context = self.model.context
        wanted = context - min(self.max_new_tokens, context // _ROOM)
        start = 0
        while len(ids := self._ids(self.turns[start:], question)) > wanted and start < len(self.turns):
            start += 2
        if len(ids) > context:
            raise DataError(
                f"the question has {len(ids):,} tokens with the marks around it"
                f"{' and the system message' if self.system else ''}, but the model's context holds {context:,}. "
                "Ask a shorter one"
            )
        if start:
            log.say(f"note: the context of {context:,} tokens is full; the oldest {start} messages are forgotten")
            self.turns = self.turns[start:]
        return ids

    def _ids(self, turns: list[Message], question: str) -> list[int]:
        system = [Message("system", self.system)] if self.system else []
        return self.template.prompt([*system, *turns, Message("user", question)])
