"""One short module a verb. Each has `run(argv) -> int`: parse, import the heavy part, call it, print."""

from __future__ import annotations

import json
from typing import Any


def finish(result: dict[str, Any], text: str, as_json: bool) -> int:
    """Print the human text on stdout and, with --json, exactly one JSON object as the last line."""
    if text:
        print(text, flush=True)
    if as_json:
        print(json.dumps(result, ensure_ascii=False, default=str), flush=True)
    return 0
