"""`danlu chat`: talk with a model that was taught to answer, in the terminal or through a pipe."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tyro.conf import Positional

from danlu import log
from danlu.commands import DrawOptions, chat_template, finish, require_utf8, required
from danlu.configure import parse_flags
from danlu.errors import DataError

if TYPE_CHECKING:
    from danlu.infer.talk import Talk

HELP = """/reset        forget what was said
/system TEXT  set the system message; without TEXT, none
/help         this list
/exit         leave (or Ctrl-D)
Ctrl-C stops an answer; at the prompt it leaves."""
_COMMAND = re.compile(r"/([a-z]+)(?:\s+(.*))?")
_CUT = {"length": "cut at --max-new-tokens", "context": "cut: the context is full"}


@dataclass(frozen=True)
class Options(DrawOptions):
    """Talk with a fine-tuned checkpoint. Where stdin is no terminal, each of its lines is a question of one talk."""

    checkpoint: Positional[Path | None] = None
    """checkpoint folder or run folder"""
    ask: str | None = None
    """one question: answer it and exit"""
    system: str = ""
    """system message"""
    max_new_tokens: int = 512
    """longest answer"""
    json: bool = False
    """print one JSON object as the last line: of --ask its answer, otherwise `turns`, a list of whole answers"""


def run(argv: list[str]) -> int:
    """Parse, load, then answer one question, a terminal's or a pipe's."""
    options = parse_flags(Options, argv, "danlu chat")
    folder = required(options.checkpoint, "CKPT", "name a checkpoint folder or a run folder")
    require_utf8(options.system, "--system")
    if options.ask is not None:
        require_utf8(options.ask, "--ask")
        if not options.ask.strip():
            raise DataError("--ask: is empty. Give a question")
    talk = _talk(folder, options)
    if options.ask is not None:
        done = _answer(talk, options.ask, shown=not options.json)
        _say_cut(done)
        return finish(done, "", options.json)
    session = Session(talk)
    in_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    (_talk_in_terminal if in_terminal else _answer_lines)(session)
    finish({"turns": session.done}, "", options.json)
    return 2 if session.refused and not in_terminal else 0


def _talk(folder: Path, options: Options) -> Talk:
    from danlu.infer.talk import Talk

    sampling = options.sampling()
    model, tokenizer = options.load(folder)
    template = chat_template(folder, tokenizer)
    if template.end_of_turn() != tokenizer.eos_token:
        log.say(f"note: {folder} was not taught to answer: danlu finetune does. It continues texts: danlu generate")
    return Talk(
        model,
        template,
        system=options.system,
        max_new_tokens=options.max_new_tokens,
        sampling=sampling,
        seed=options.seed,
    )


def _answer(talk: Talk, question: str, shown: bool = True) -> dict[str, Any]:
    """Answer a question, the answer on stdout as it comes; return what there is to say of it."""
    done = talk.ask(question, lambda piece: print(piece, end="", flush=True) if shown else None)
    if shown:
        print(flush=True)
    return {
        "question": question,
        "answer": done.texts[0],
        "stopped": done.stopped[0],
        "tokens": done.tokens,
        "seconds": done.seconds,
        "tokens_per_second": done.tokens_per_second,
    }


def _say_cut(done: dict[str, Any]) -> None:
    if done["stopped"] in _CUT:
        log.say(f"[{_CUT[done['stopped']]}]")


class Session:
    """What lines typed into a talk do: ask, or command. Answers go to stdout as they come, remarks to stderr."""

    def __init__(self, talk: Talk):
        self.talk = talk
        self.done: list[dict[str, Any]] = []
        self.refused = 0

    def take(self, line: str) -> bool:
        """Answer or obey one line; return False where it ends the talk."""
        command = _COMMAND.fullmatch(line.strip())
        try:
            require_utf8(line, "the line")
            if command:
                return self._obey(command[1], command[2] or "")
            if line.strip():
                self._ask(line.strip())
        except DataError as error:
            self.refuse(str(error))
        return True

    def refuse(self, message: str) -> None:
        """Say in one line why a line is neither answered nor obeyed; the talk goes on."""
        self.refused += 1
        print(f"error: {message}", file=sys.stderr, flush=True)

    def _ask(self, question: str) -> None:
        self.done.append(_answer(self.talk, question))
        _say_cut(self.done[-1])

    def _obey(self, name: str, text: str) -> bool:
        if name == "reset":
            self.talk.reset()
            log.say("[forgotten]")
        elif name == "system":
            self.talk.system = text
            log.say(f"[system message: {text or 'none'}]")
        elif name == "help":
            log.say(HELP)
        elif name != "exit":
            self.refuse(f"/{name}: is no command. Known: /reset, /system TEXT, /help, /exit")
        return name != "exit"


def _talk_in_terminal(session: Session) -> None:
    """Read lines until the end; Ctrl-C stops an answer, and at the prompt the talk."""
    with suppress(ImportError):
        import readline  # noqa: F401  importing it lets `input` edit lines
    log.say("/help lists the commands; Ctrl-D leaves")
    while True:
        try:
            line = input("> ")
        except (EOFError, KeyboardInterrupt):
            print()
            return
        except UnicodeDecodeError:
            session.refuse("the line is no UTF-8. Set the terminal to UTF-8")
            continue
        try:
            if not session.take(line):
                return
        except KeyboardInterrupt:
            print()


def _answer_lines(session: Session) -> None:
    for line in _lines():
        if not session.take(line):
            return


def _lines() -> Iterator[str]:
    """Yield stdin's lines. Raises DataError for one that is no UTF-8."""
    for number, raw in enumerate(sys.stdin.buffer, 1):
        try:
            yield raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError:
            raise DataError(
                f"stdin, line {number}: is no UTF-8. Convert it, e.g. with iconv -f GB18030 -t UTF-8"
            ) from None
