"""Each objective beside a computation of its formula by hand, and by the library that people know it from."""

import math

import pytest
import torch
import torch.nn.functional as F
from tiny_run import TINY

from danlu.config import DistillConfig, DpoConfig, Qwen3Config
from danlu.data.batches import REFERENCE
from danlu.model import build_model
from danlu.train.objectives import Distillation, Preference, preference_loss
from danlu.train.step import accumulate, split
from danlu.types import IGNORED, Batch

SIZES = TINY["model"]
V, T = 60, 24
PAIRS = ([(7, 5), (4, 8)], [(3, 9)], [(6, 6), (5, 3), (2, 2)])
"""Lengths of the chosen and the rejected answer of each pair, row by row."""


def model(seed):
    made = build_model(Qwen3Config(**SIZES), V, T, seed=seed)
    with torch.no_grad():
        for p in made.parameters():
            p += 0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(seed + p.numel()))
    return made.eval()


def conversations():
    """Yield, row by row, the ids of each side of each pair; the first two tokens of each are not scored."""
    draw = torch.Generator().manual_seed(0)
    return [[[torch.randint(V, (n + 1,), generator=draw) for n in pair] for pair in row] for row in PAIRS]


def batch(reference):
    rows = conversations()
    ids, labels = torch.zeros(len(rows), T, dtype=torch.long), torch.full((len(rows), T), IGNORED)
    segments = torch.zeros(len(rows), T, dtype=torch.long)
    for row, pairs in enumerate(rows):
        at = 0
        for number, side in enumerate((side for pair in pairs for side in pair), 1):
            stop = at + len(side) - 1
            ids[row, at:stop], labels[row, at + 1 : stop], segments[row, at:stop] = side[:-1], side[2:], number
            at = stop
    with torch.no_grad():
        costs = reference(ids, segments=segments, labels=labels).nll_BT
    return Batch(ids, labels, segments, {REFERENCE: costs})


def log_probability(of, side):
    with torch.no_grad():
        logits = of(side[None, :-1]).logits_BTV[0]
    each = F.log_softmax(logits, -1).gather(1, side[1:, None])[1:, 0]
    return each.sum(), len(each)


@pytest.mark.parametrize("kind", ["dpo", "ipo", "simpo"])
def test_preferences_equal_a_pair_by_pair_computation(kind):
    policy, reference, config = model(1), model(2), DpoConfig(kind=kind, beta=0.3, gamma=0.2)
    expected = []
    for pair in (pair for row in conversations() for pair in row):
        (own_c, n_c), (own_r, n_r) = (log_probability(policy, side) for side in pair)
        (ref_c, _), (ref_r, _) = (log_probability(reference, side) for side in pair)
        if kind == "dpo":
            expected.append(-F.logsigmoid(0.3 * ((own_c - ref_c) - (own_r - ref_r))))
        elif kind == "ipo":
            expected.append((((own_c - ref_c) / n_c - (own_r - ref_r) / n_r) - 1 / 0.6) ** 2)
        else:
            expected.append(-F.logsigmoid(0.3 * (own_c / n_c - own_r / n_r) - 0.2))
    objective = Preference(config)
    collated = objective.collate(batch(reference))
    loss, metrics = objective.loss(policy, collated)
    assert objective.count(collated) == len(expected) == 6
    torch.testing.assert_close(loss, torch.stack(expected).sum(), rtol=1e-4, atol=1e-4)
    assert 0 <= float(metrics["preferred"]) <= 6


def test_micro_batches_of_pairs_add_up_to_the_whole():
    policy, objective = model(1), Preference(DpoConfig())
    collated = objective.collate(batch(model(2)))
    accumulate(policy, objective, [collated], 6)
    whole = {name: p.grad.clone() for name, p in policy.named_parameters()}
    policy.zero_grad()
    accumulate(policy, objective, split(collated, 1, torch.device("cpu")), 6)
    for name, p in policy.named_parameters():
        torch.testing.assert_close(p.grad, whole[name], rtol=1e-3, atol=1e-6, msg=name)


def test_before_the_first_step_no_answer_is_preferred():
    objective, same = Preference(DpoConfig()), model(1)
    loss, metrics = objective.loss(same, objective.collate(batch(same)))
    assert loss.item() == pytest.approx(6 * math.log(2), rel=1e-5)
    assert float(metrics["margin"]) == pytest.approx(0, abs=1e-4)


TRL = {
    "policy": [
        [-8.749743, -5.953137, -7.413356, -7.817574, -6.724478, -0.719548],
        [-2.996091, -13.816906, -5.480763, -4.276618, -11.755545, -2.395207],
    ],
    "reference": [
        [-9.832857, -6.893236, -7.233958, -3.603766, -8.905629, -3.944404],
        [-3.139653, -12.512213, -9.841609, -2.244707, -7.200898, -1.564304],
    ],
    "tokens": [[7, 3, 5, 4, 6, 2], [4, 7, 5, 2, 6, 3]],
    "dpo": [0.647273, 0.587193, 0.945708, 0.808181, 0.412030, 0.510781],
    "ipo": [23.825722, 20.252241, 34.905037, 25.376368, 15.033975, 9.675860],
    "simpo": [1.005552, 0.974733, 0.998311, 0.962669, 0.922715, 0.947001],
}
"""Log-probabilities of chosen and rejected answers, and what TRL 1.16.0 makes of them, β 0.1, γ 0.5.

Its DPOTrainer gave dpo and ipo, its CPOTrainer simpo."""


@pytest.mark.parametrize("kind", ["dpo", "ipo", "simpo"])
def test_losses_equal_figures_that_trl_gave(kind):
    policy, reference, tokens = (torch.tensor(TRL[name]) for name in ("policy", "reference", "tokens"))
    if kind != "dpo":
        policy, reference = policy / tokens, reference / tokens
    gained = (policy - reference)[0] - (policy - reference)[1]
    got = preference_loss(DpoConfig(kind=kind, beta=0.1, gamma=0.5), policy[0] - policy[1], gained)
    torch.testing.assert_close(got, torch.tensor(TRL[kind]), rtol=1e-5, atol=1e-5)


def test_distillation_equals_the_formula_token_by_token():
    student, teacher, config = model(1), model(2), DistillConfig(temperature=3.0, hard_share=0.25)
    whole, kl, text = batch(student), 0.0, 0.0
    for side in (side for row in conversations() for pair in row for side in pair):
        with torch.no_grad():
            own, their = (m(side[None, :-1]).logits_BTV[0, 1:] for m in (student, teacher))
        p, q = F.softmax(their / 3, -1), F.softmax(own / 3, -1)
        kl += float((p * (p / q).log()).sum())
        text += float(F.cross_entropy(own, side[2:], reduction="sum"))
    objective = Distillation(teacher, config)
    loss, metrics = objective.loss(student, whole)
    assert loss.item() == pytest.approx(0.75 * 9 * kl + 0.25 * text, rel=1e-4)
    assert float(metrics["kl_nats_per_token"]) == pytest.approx(kl, rel=1e-4)
    assert objective.count(whole) == int((whole.labels_BT != IGNORED).sum())


def test_a_teacher_of_transformers_sees_what_danlus_own_does(tmp_path):
    from transformers import AutoModelForCausalLM

    from danlu.checkpoint import save_checkpoint
    from danlu.evaluate.foreign import ForeignModel

    student, teacher = model(1), model(2)
    save_checkpoint(tmp_path / "teacher", teacher)
    theirs = ForeignModel(AutoModelForCausalLM.from_pretrained(tmp_path / "teacher"))
    whole = batch(student)
    losses = [Distillation(t, DistillConfig()).loss(student, whole)[0].item() for t in (teacher, theirs)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
