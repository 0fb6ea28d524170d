"""Settings of a run that takes a second, and what it means that two runs are the same."""

from pathlib import Path

import torch

from danlu import log
from danlu.checkpoint import load_trainer
from danlu.config import TrainConfig
from danlu.configure import check
from danlu.storage import sha256_of

TINY = {
    "context": 32,
    "batch_tokens": 128,
    "eval_tokens": 300,
    "eval_every": 4,
    "checkpoint_every": 3,
    "sample_tokens": 5,
    "embedding": "bigrams",
    "model": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "intermediate_size": 48,
    },
    "device": {"name": "cpu", "precision": "fp32", "attention": "sdpa", "threads": 1, "micro_batch_tokens": 64},
}


def settings(shards_folder, out, budget="10 steps", **changes) -> TrainConfig:
    tables = {**TINY, "data": str(shards_folder), "out": str(out), "budget": budget, **changes}
    return check(TrainConfig, tables, "test")


def weights(folder) -> str:
    return sha256_of(Path(folder) / "model.safetensors")


def trainer_tensors(folder):
    return load_trainer(Path(folder)).tensors


def assert_same_run(a, b):
    """Weights and every optimiser tensor equal, bit for bit, and the logged losses too."""
    assert weights(a["checkpoint"]) == weights(b["checkpoint"])
    ours, theirs = trainer_tensors(a["checkpoint"]), trainer_tensors(b["checkpoint"])
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    losses = [
        [
            (r["step"], [value for key, value in r.items() if key.startswith("loss_")])
            for r in log.read_metrics(Path(x["run"]))
            if r["kind"] == "train"
        ]
        for x in (a, b)
    ]
    assert losses[0] == losses[1]
    assert [step for step, _ in losses[0]] == list(range(1, a["step"] + 1))
