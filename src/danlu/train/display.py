"""What a run shows on the terminal: a live bar, or plain lines now and then where it is not one."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from danlu import log

_PLAIN_LINE_EVERY_SECONDS = 15.0


class Display:
    """One line that says where a run is, how well, how fast, and when it ends."""

    def __init__(self, total_steps: int, done: int):
        self._console = log.console()
        self._first: tuple[int, float] | None = None
        self._spoke = 0.0
        self._bar = log.progress_bar() if self._console.is_terminal else None
        self._task = None
        if self._bar is not None:
            self._bar.start()
            self._task = self._bar.add_task("train", total=total_steps, completed=done, note="")

    def step(self, step: int, total_steps: int, row: Mapping[str, Any]) -> None:
        """Show the state after `step` updates."""
        note = self._note(row)
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=step, total=total_steps, note=note)
            return
        now = time.monotonic()
        self._first = self._first or (step, now)  # what came before the first step is no measure of the next
        if now - self._spoke >= _PLAIN_LINE_EVERY_SECONDS or step == total_steps:
            self._spoke = now
            done, seconds = step - self._first[0], now - self._first[1]
            left = f"  {_clock(seconds / done * (total_steps - step))} left" if done else ""
            log.say(f"step {step:,}/{total_steps:,}  {note}{left}")

    def say(self, text: str) -> None:
        """Print one remark above the bar."""
        console = self._bar.console if self._bar is not None else self._console
        console.print(text, markup=False, soft_wrap=True)

    def close(self) -> None:
        """Leave the last state standing."""
        if self._bar is not None:
            self._bar.stop()

    @staticmethod
    def _note(row: Mapping[str, Any]) -> str:
        parts = [
            f"{row['tokens'] / 1e6:.2f}M tokens" if row["tokens"] >= 1e5 else f"{row['tokens']:,} tokens",
            f"loss {row['loss']:.3f}",
            f"{row['bits_per_char']:.3f} bits/char" if row.get("bits_per_char") is not None else "",
            f"rate {row['learning_rate']:.1e}",
            f"grad {row['grad_norm']:.2f}",
            f"{row['tokens_per_second']:,.0f} tokens/s",
            f"{row['gemm_share']:.0%} of GEMM",
        ]
        return "  ".join(part for part in parts if part)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def quality_text(quality: Mapping[str, float]) -> str:
    """Return what a person is told of an evaluation."""
    parts = [
        f"{quality['bits_per_char']:.3f} bits/char",
        f"{quality['loss_nats_per_token']:.3f} nats/token on validation text",
        f"{quality['text_bits_per_char']:.3f} bits/char on pretraining text" if "text_bits_per_char" in quality else "",
        f"{quality['preferred']:.1%} of pairs as preferred" if "preferred" in quality else "",
        f"{quality['kl_nats_per_token']:.3f} nats/token from the reference" if "kl_nats_per_token" in quality else "",
    ]
    return ", ".join(part for part in parts if part)
