"""`danlu demo --chat`: the demo's model learns to answer, from the built-in conversations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from danlu import log, storage
from danlu.commands.finetune_ import finetune, settings
from danlu.config import FinetuneConfig
from danlu.configure import check
from danlu.errors import DataError

_EPOCHS, _MINUTES = 2.0, 5.0
"""So many passes over the conversations in a demo of so many minutes or more, fewer in a shorter one."""
_SHOWN = 5


def require_conversations() -> None:
    """Raise DataError where the built-in conversations are not installed: before minutes of training, not after."""
    from danlu.data.sources import Corpus

    Corpus(["demo-chat"], text_key=None)


def teach(out: Path, minutes: float, seed: int) -> dict[str, Any]:
    """Fine-tune the model in `out`/run into `out`/chat, or go on with that; return what --json says of it."""
    from danlu.evaluate.chat import ANSWERS

    log.say("chat: learning to answer from the built-in conversations, the pretraining text beside them")
    epochs = _EPOCHS * min(1.0, minutes / _MINUTES)
    tables = settings(str(out / "run")).model_dump(mode="json") | {
        "data": ["demo-chat"],
        "replay": str(out / "shards"),
        "out": str(out / "chat"),
        "budget": f"{epochs:.2f} epochs",
        "seed": seed,
    }
    done = finetune(check(FinetuneConfig, tables, "danlu demo --chat"), resume=True)
    run = Path(done["run"])
    result = {key: done[key] for key in ("run", "checkpoint", "step", "finished")} | {
        "report": str(run / "report.html")
    }
    if not done["finished"]:
        return result
    judged = [row for row in log.read_metrics(run) if row["kind"] == "eval"]
    text = {when: row["text_bits_per_char"] for when, row in (("before", judged[0]), ("after", judged[-1]))}
    shown = storage.read_json(run / ANSWERS, DataError)["shown"][:_SHOWN]
    return result | {"answers": done["answers"], "text_bits_per_char": text, "shown": shown}


def taught_text(chat: dict[str, Any]) -> list[str]:
    """Return the lines that say what was learned, and what was not."""
    (base, tuned), text = chat["answers"].values(), chat["text_bits_per_char"]
    fell = tuned["loss_nats_per_token"] / base["loss_nats_per_token"] - 1
    worse = text["after"] / text["before"] - 1
    both = [(model["loss_nats_per_token"], model["stopped"], model["character_f1"]) for model in (base, tuned)]
    losses, stops, matches = zip(*both, strict=True)
    return [
        "asked, held out from what it learned:",
        *(f"  问 {row['question']}\n  答 {row['answers']['sft']}" for row in chat["shown"]),
        "",
        f"{'':<34}{'before':>8}{'after':>8}",
        f"{'  nats/token of held-out answers':<34}{losses[0]:>8.3f}{losses[1]:>8.3f}  {fell:+.0%}",
        f"{'  answers that end by themselves':<34}{stops[0]:>8.0%}{stops[1]:>8.0%}",
        f"{'  characters shared with reference':<34}{matches[0]:>8.1%}{matches[1]:>8.1%}",
        f"{'  bits/char of pretraining text':<34}{text['before']:>8.3f}{text['after']:>8.3f}  {worse:+.1%}",
        "",
        "It has learned to answer in turn, briefly, and to stop. A model this small, after minutes, knows next to",
        "nothing: what its answers say is mostly not true.",
        "",
    ]
