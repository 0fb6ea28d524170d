"""The command line: a static table of verbs, each imported only when it is called."""

from __future__ import annotations

import errno
import importlib
import os
import sys

from danlu.errors import DanluError

VERBS = {
    "demo": "corpus, tokenizer, shards, training, evaluation, samples and a report, in minutes",
    "corpora": "known sets of Chinese text and conversations on the hubs",
    "fetch": "bring sets from a hub here beforehand, and tell where they lie",
    "stats": "what a corpus is: documents, lengths, duplicates, characters",
    "clean": "rules, deduplication and decontamination of raw text, at any size",
    "tokenizer": "train a tokenizer on a corpus",
    "prepare": "clean, deduplicate, split, tokenise and pack a corpus into shards",
    "train": "train a model from a preset or a TOML file",
    "finetune": "teach a model to answer, from conversations",
    "eval": "measure bits per character of any checkpoint on any text, or judge its answers",
    "generate": "continue a prompt",
    "chat": "talk with a fine-tuned model",
    "serve": "answer over HTTP, by OpenAI's protocol, with a page to talk on",
    "export": "write a checkpoint as GGUF (llama.cpp, ollama), as a Hugging Face folder, or as the article's .pt",
    "summary": "layers, parameters, memory and FLOPs of a preset or checkpoint",
    "bench": "speed of training, generation and preparation on this machine",
    "import": "turn the article's .pt state dict into a checkpoint folder",
}


def usage() -> str:
    """Return the text of `danlu --help`."""
    width = max(map(len, VERBS))
    rows = "\n".join(f"  {verb:<{width}}  {what}" for verb, what in VERBS.items())
    return (
        "danlu (丹炉): small Chinese GPT language models, from raw text to a model\n\n"
        f"usage: danlu VERB … [--json]\n\n{rows}\n\n"
        "danlu VERB --help tells a verb's options. Start with: danlu demo"
    )


def main(argv: list[str] | None = None) -> int:
    """Run one verb; return the exit status: 0 done, 2 the user's mistake (one line), 130 interrupted."""
    args = sys.argv[1:] if argv is None else argv
    if not args or args[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if args[0] in ("-V", "--version"):
        from danlu import __version__

        print(f"danlu {__version__}")
        return 0
    verb, *rest = args
    if verb not in VERBS:
        return _fail(f"unknown verb {verb!r}. Known: {', '.join(VERBS)}. See danlu --help")
    try:
        return importlib.import_module(f"danlu.commands.{verb}_").run(rest)
    except DanluError as error:
        return _fail(" ".join(str(error).split("\n")))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader (head, less) has what it wanted
        _close_stdout()
        return 0
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        _close_stdout()
        return _fail(f"{error.filename or 'the output'}: no space left on the disk. Free some, then run it again")


def _close_stdout() -> None:
    """Send nowhere what stdout still holds, or Python fails once more at its exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 2
