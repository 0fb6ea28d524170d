"""The article's model, danlu's way beside the article's arithmetic: head after head, mask and positions made each time.

Same weights, same ids, fp32, no dropout; forward alone, and forward with the loss and backward. Logits are compared.
usage: python benchmarks/article.py [--rounds 7] [--rows 4] [--window 512]
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from danlu.config import TrainConfig
from danlu.configure import check, read_tables
from danlu.model import build_model
from danlu.model.article import Article, to_article_state


def head_by_head(state: dict[str, Tensor], ids_BT: Tensor, layers: int, heads: int, context: int) -> Tensor:
    """Return logits_BTV from weights under the article's names, every head and every table computed as it does."""
    width = state["token_embedding.weight"].shape[1]
    T, K = ids_BT.shape[1], width // heads
    angles = torch.arange(context).float()[:, None] * torch.exp(
        torch.arange(0, width, 2).float() * (-math.log(10_000.0) / width)
    )
    positions = torch.stack([angles.sin(), angles.cos()], -1).flatten(1)
    x = F.embedding(ids_BT, state["token_embedding.weight"]) + positions[:T]
    for layer in range(layers):
        at = f"transformer_block.{layer}."
        mixed = []
        for head, part in enumerate(x.split(K, -1)):
            q, k, v = (F.linear(part, state[f"{at}multi_head_attention.heads.{head}.W{n}.weight"]) for n in "qkv")
            scores = q @ k.mT / math.sqrt(K)
            allowed = state[f"{at}multi_head_attention.heads.{head}.mask"][:T, :T]
            mixed.append(scores.masked_fill(allowed == 0, -math.inf).softmax(-1) @ v)
        x = norm(x + linear(torch.cat(mixed, -1), state, f"{at}multi_head_attention.projection_layer"), state, at, 1)
        hidden = linear(x, state, f"{at}ff_network.ffn.0").relu()
        x = norm(x + linear(hidden, state, f"{at}ff_network.ffn.2"), state, at, 2)
    last = f"transformer_block.{layers}"
    x = F.layer_norm(x, (width,), state[f"{last}.weight"], state[f"{last}.bias"])
    return linear(x, state, "language_model_out_linear_layer")


def linear(x: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])


def norm(x: Tensor, state: dict[str, Tensor], at: str, number: int) -> Tensor:
    name = f"{at}layer_norm{number}"
    return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--window", type=int, default=512)
    args = parser.parse_args()
    config = check(TrainConfig, read_tables("article-v2"), "article-v2")
    model = build_model(config.model, 6400, config.context).eval()
    assert isinstance(model, Article)
    layers, heads = config.model.num_hidden_layers, config.model.num_attention_heads
    names = to_article_state(model)
    weights = {n: t.detach().clone().requires_grad_(not n.endswith("mask")) for n, t in names.items()}
    ids = torch.randint(6400, (args.rows, args.window), generator=torch.Generator().manual_seed(0))
    labels = ids.roll(-1, 1)

    def theirs() -> Tensor:
        return head_by_head(weights, ids, layers, heads, config.context)

    def forward(logits: Callable[[], Tensor]) -> Callable[[], None]:
        def go() -> None:
            with torch.no_grad():
                logits()

        return go

    with torch.no_grad():
        difference = (theirs() - model(ids).logits_BTV).abs().max().item()
    print(f"largest difference of a logit: {difference:.1e}")
    runs = {
        "forward": (forward(lambda: model(ids).logits_BTV), forward(theirs)),
        "forward, loss and backward": (
            lambda: model(ids, labels=labels).nll_BT.mean().backward(),
            lambda: F.cross_entropy(theirs().flatten(0, 1), labels.flatten()).backward(),
        ),
    }
    for name, pair in runs.items():
        ratio, ours, other = compare(*pair, rounds=args.rounds)
        print(f"{name:<28} danlu {ours * 1e3:7.0f} ms   article {other * 1e3:7.0f} ms   {ratio:.2f}x, median of pairs")


def compare(ours: Callable[[], object], other: Callable[[], object], rounds: int) -> tuple[float, float, float]:
    """Alternate the two; return the median ratio and both medians, in seconds."""
    taken: tuple[list[float], list[float]] = ([], [])
    for go in (ours, other):
        go()
    for _ in range(rounds):
        for go, seconds in zip((ours, other), taken, strict=True):
            start = time.perf_counter()
            go()
            seconds.append(time.perf_counter() - start)
    ratios = [b / a for a, b in zip(*taken, strict=True)]
    return statistics.median(ratios), statistics.median(taken[0]), statistics.median(taken[1])


if __name__ == "__main__":
    main()
