"""The article family against figures made by running the article's own code (tests/data/golden)."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from danlu.config import ArticleConfig, OptimConfig, ScheduleConfig
from danlu.errors import CheckpointError
from danlu.model import build_model
from danlu.model.article import from_article_state, to_article_state
from danlu.train import schedule
from danlu.train.objectives import NextToken
from danlu.train.optim import Optimizer
from danlu.train.step import train_step
from danlu.types import Batch

GOLDEN = Path(__file__).parent.parent / "data" / "golden"
FIGURES = json.loads((GOLDEN / "blog_tiny.json").read_text())
TENSORS = load_file(GOLDEN / "blog_tiny.safetensors")
EMBEDDING = "token_embedding.weight"


def golden_state():
    return torch.load(GOLDEN / "blog_tiny.pt", weights_only=True)


def golden_model():
    return from_article_state(golden_state(), "golden")


def masks(state) -> list[str]:
    return [name for name in state if name.endswith(".mask")]


def golden_batch(step: int) -> Batch:
    ids = TENSORS["ids"][step % 8].long()
    labels = ids[:, 1:].clone()
    labels[TENSORS["attention_mask"][step % 8][:, 1:] == 0] = -100
    return Batch(ids[:, :-1].contiguous(), labels)


def test_names_and_bits_survive_the_round_trip():
    state = golden_state()
    back = to_article_state(golden_model())
    assert list(back) == list(state)
    assert all(torch.equal(back[name], tensor) for name, tensor in state.items())


def test_full_size_has_the_articles_parameters_and_names():
    full = FIGURES["full_size"]
    model = build_model(ArticleConfig(), full["config"]["max_token_value"], full["config"]["context_length"])
    assert sum(p.numel() for p in model.parameters()) == full["parameters"] == 25_869_568
    state = to_article_state(model)
    assert len(state) == full["state_dict_entries"]
    assert sum(name.endswith(".mask") for name in state) == full["mask_buffers"]


def test_logits_equal_the_golden_ones():
    with torch.no_grad():
        got = golden_model().eval()(golden_batch(0).ids_BT).logits_BTV
    torch.testing.assert_close(got, TENSORS["logits_step0"], rtol=1e-5, atol=1e-5)


def test_gradients_equal_the_golden_ones():
    model, batch = golden_model().eval(), golden_batch(0)
    (NextToken().loss(model, batch)[0] / NextToken().count(batch)).backward()
    stacked = {n: p.grad for n, p in model.named_parameters()}
    names = [name for name in TENSORS if name.startswith("grad_step0.")]
    assert len(names) > 40
    for name in names:
        own = name.removeprefix("grad_step0.")
        if ".heads." in own:
            prefix, _, rest = own.partition(".heads.")
            head, matrix, _ = rest.split(".")
            grad = stacked[f"{prefix}.{matrix}"][int(head)]
        else:
            grad = stacked[own]
        torch.testing.assert_close(grad, TENSORS[name], rtol=1e-5, atol=1e-5, msg=name)


def test_the_24_step_trace_equals_the_golden_one():
    model = golden_model().eval()  # the golden run had dropout off
    config = OptimConfig(
        name="adamw", lr=5e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01, decay_all=True, clip=1.0
    )
    optimizer, objective = Optimizer(model, config), NextToken()
    rates = ScheduleConfig(shape="linear", warmup_steps=3)
    for step in range(24):
        optimizer.set_rate(schedule.rate_factor(rates, 24, step))
        batch = golden_batch(step)
        result = train_step(model, optimizer, objective, [batch], objective.count(batch), config.clip)
        assert result.loss == pytest.approx(FIGURES["losses"][step], abs=1e-5), step
        assert result.grad_norm == pytest.approx(FIGURES["grad_norms"][step], abs=1e-5), step
    with torch.no_grad():
        got = model(golden_batch(0).ids_BT).logits_BTV
    torch.testing.assert_close(got, TENSORS["logits_final"], rtol=1e-5, atol=1e-5)


def test_cached_decoding_equals_the_full_forward():
    model, ids = golden_model().eval(), golden_batch(0).ids_BT[:2, :20]
    with torch.no_grad():
        cache = model.new_cache(2, 20)
        parts = [model(ids[:, :9], cache=cache).logits_BTV]
        parts += [model(ids[:, t : t + 1], cache=cache).logits_BTV for t in range(9, 20)]
        torch.testing.assert_close(torch.cat(parts, 1), model(ids).logits_BTV, rtol=1e-5, atol=1e-5)


def test_positions_restart_in_every_masked_document():
    model = golden_model().eval()
    a, b = golden_batch(0).ids_BT[:1, :8], golden_batch(0).ids_BT[1:2, :6]
    with torch.no_grad():
        joined = model(torch.cat([a, b], 1), segments=torch.tensor([[0] * 8 + [1] * 6])).logits_BTV
        torch.testing.assert_close(joined[:, 8:], model(b).logits_BTV, rtol=1e-5, atol=1e-5)


def test_dropout_acts_in_training_only():
    model, ids = golden_model(), golden_batch(0).ids_BT
    with torch.no_grad():
        model.train()
        torch.manual_seed(0)
        first = model(ids).logits_BTV
        torch.manual_seed(0)
        assert torch.equal(model(ids).logits_BTV, first)
        assert not torch.allclose(model(ids).logits_BTV, first)


def test_the_two_initialisations():
    for kind, low, high in [("torch", 0.9, 1.1), ("xavier", 0.015, 0.025)]:
        model = build_model(ArticleConfig(hidden_size=64, initialization=kind), 200, 16)
        assert low < model.token_embedding.weight.std() < high
        assert bool((model.language_model_out_linear_layer.bias == 0).all()) is (kind == "xavier")


@pytest.mark.parametrize(
    "damage",
    [
        lambda s: s.pop(EMBEDDING),
        lambda s: s.pop("transformer_block.1.multi_head_attention.heads.2.Wk.weight"),
        lambda s: s.update(stranger=torch.zeros(1)),
        lambda s: s.update({"language_model_out_linear_layer.bias": torch.zeros(5)}),
        lambda s: s.update({EMBEDDING: torch.zeros(5)}),
        lambda s: s.update({EMBEDDING: torch.zeros(())}),
        lambda s: s.update({EMBEDDING: torch.zeros(0, 16)}),
        lambda s: s.update({EMBEDDING: torch.zeros(7, 5)}),
        lambda s: s.update({EMBEDDING: torch.zeros_like(s[EMBEDDING], dtype=torch.int8)}),
        lambda s: s.update({next(iter(masks(s))): torch.tensor(1.0)}),
        lambda s: s.update({next(iter(masks(s))): torch.ones(3)}),
        lambda s: s.update({next(iter(masks(s))): torch.ones(0, 0)}),
        lambda s: [s.pop(name) for name in masks(s)],
    ],
)
def test_a_damaged_state_dict_is_refused_by_name(damage):
    state = golden_state()
    damage(state)
    with pytest.raises(CheckpointError, match=r"^x\.pt: [^\n]*$"):
        from_article_state(state, "x.pt")


def test_heads_that_do_not_divide_the_width_are_refused():
    state = golden_state()
    names = [n for n in state if ".heads.0." in n]
    state |= {n.replace(".heads.0.", ".heads.stranger."): state[n] for n in names}
    with pytest.raises(CheckpointError, match=r"num_attention_heads \d+ does not divide hidden_size \d+"):
        from_article_state(state, "x.pt")
