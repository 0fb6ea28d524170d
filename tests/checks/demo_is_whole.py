"""Check what `danlu demo --json` printed: every path it names is there, and the model learned."""

import json
import sys
from pathlib import Path

result = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
for key in ("data", "tokenizer", "run", "checkpoint", "report"):
    assert Path(result[key]).exists(), f"{key}: {result[key]} is missing"
assert result["parameters"] > 1e6
assert result["tokens"] > 1_000
assert all(sample["text"] for sample in result["samples"])
assert result["bits_per_char"] < 9.0, result["bits_per_char"]
assert {"bits_per_char"} <= set(next(iter(result["baselines"].values())))
chat = result["chat"]
base, tuned = chat["answers"]["base"], chat["answers"]["sft"]
assert Path(chat["checkpoint"], "generation_config.json").is_file()
assert Path(chat["report"]).is_file()
assert tuned["loss_nats_per_token"] < base["loss_nats_per_token"], chat["answers"]
assert set(chat["text_bits_per_char"]) == {"before", "after"}
assert chat["shown"]
print(f"whole: {result['bits_per_char']:.3f} bits/char after {result['tokens']:,} tokens in {result['seconds']:.0f} s")
