"""Answers judged: the metrics by hand, the loss one conversation at a time, and which conversations are asked."""

import math
from dataclasses import asdict

import pytest
import torch

from danlu.config import ArticleConfig
from danlu.data.chat import Conversation, Message
from danlu.data.template import ChatTemplate
from danlu.errors import DataError
from danlu.evaluate.chat import Answer, character_f1, compared, distinct_2, fits, judge
from danlu.evaluate.loss import Score
from danlu.infer.generate import generate
from danlu.infer.sampling import Sampling
from danlu.model import build_model
from danlu.types import IGNORED

CONTEXT = 128


def conversation(*turns, number=0):
    roles = ("user", "assistant") * len(turns)
    return Conversation(tuple(map(Message, roles, turns)), "qa.jsonl", str(number))


SHORT = conversation("长江是什么？", "一条河。")
TALK = conversation("北京是什么？", "一座城。", "它在哪里？", "在北方，很大，也很老。", number=1)
LONG = conversation("山" * 200, "高。", number=2)


@pytest.fixture(scope="module")
def model(random_model):
    return random_model.eval()


@pytest.fixture(scope="module")
def template(tokenizer):
    return ChatTemplate(tokenizer)


def test_the_loss_is_that_of_one_conversation_at_a_time(model, tokenizer, template):
    nats = tokens = 0
    for c in (SHORT, TALK):
        encoded = template.encode(c.messages)
        labels = [i if is_scored else IGNORED for i, is_scored in zip(encoded.ids, encoded.scored, strict=True)]
        with torch.no_grad():
            nll = model(torch.tensor([encoded.ids[:-1]]), labels=torch.tensor([labels[1:]])).nll_BT
        nats, tokens = nats + nll.double().sum().item(), tokens + sum(encoded.scored)
    score, _ = judge(model, tokenizer, template, [SHORT, TALK], max_new_tokens=1)
    characters = sum(len(m.content) for c in (SHORT, TALK) for m in c.messages if m.role == "assistant")
    assert score.loss_nats_per_token == pytest.approx(nats / tokens, rel=1e-5)
    assert score.bits_per_char == pytest.approx(nats / math.log(2) / characters, rel=1e-5)


def test_the_last_question_is_asked_after_all_that_was_said(model, tokenizer, template):
    _, answers = judge(model, tokenizer, template, [SHORT, TALK], max_new_tokens=9)
    for found, c in zip(answers, (SHORT, TALK), strict=True):
        asked = template.prompt(c.messages[:-1])
        expected = generate(model, tokenizer, asked, sampling=Sampling(temperature=0), max_new_tokens=9)
        assert found == Answer(c.messages[-2].content, c.messages[-1].content, expected.texts[0], "length")


def test_what_is_drawn_depends_on_the_seed_and_on_the_place(model, tokenizer, template):
    def drawn(seed, *asked):
        sampling = Sampling(temperature=1.0)
        _, answers = judge(model, tokenizer, template, asked, max_new_tokens=9, sampling=sampling, seed=seed)
        return [a.answer for a in answers]

    first, second = drawn(3, SHORT, SHORT)
    assert first != second
    assert drawn(3, SHORT, TALK)[0] == first
    assert drawn(4, SHORT) == [second]


def test_conversations_longer_than_the_context_are_left_out_and_counted(model, tokenizer, template):
    score, answers = judge(model, tokenizer, template, [LONG, SHORT], max_new_tokens=1)
    assert (score.questions, score.left_out, len(answers)) == (1, 1, 1)
    whole = len(template.encode(SHORT.messages).ids)
    assert fits(SHORT, template, whole - 1)
    assert not fits(SHORT, template, whole - 2)
    with pytest.raises(DataError, match="of 1 conversations none fits into the context of 128 tokens"):
        judge(model, tokenizer, template, [LONG])


def test_the_end_of_a_turn_ends_an_answer_before_fine_tuning_too(tokenizer, template):
    model = build_model(ArticleConfig(hidden_size=32, num_attention_heads=4), tokenizer.vocab_size, CONTEXT)
    with torch.no_grad():
        model.language_model_out_linear_layer.bias[tokenizer.special_ids["<|im_end|>"]] = 1_000.0
    assert tokenizer.eos_token != "<|im_end|>"
    seen = []
    score, answers = judge(model, tokenizer, template, [SHORT], on_progress=seen.append)
    assert answers == seen == [Answer("长江是什么？", "一条河。", "", "eos")]
    assert (score.stopped, score.exact_match, score.character_f1, score.answer_characters) == (1, 0, 0, 0)


def test_a_template_that_fails_names_the_record(model, tokenizer, template):
    fussy = tokenizer.ending_with(tokenizer.eos_token)
    fussy.chat_template = "{{ raise_exception('no') if messages[0].content == '长江是什么？' else '<|im_end|>' }}"
    with pytest.raises(DataError, match=r"^qa.jsonl, record 0: the chat template fails"):
        judge(model, tokenizer, ChatTemplate(fussy), [SHORT])


# The metrics, by hand


def test_the_figures_are_means_over_the_questions():
    answers = [
        Answer("一", "一条河。", " 一条河。\n", "eos"),
        Answer("二", "一座城", "一座大城", "length"),
    ]
    score = compared(answers, Score(nats=6.0, tokens=4, characters=3, bytes=9, window=8, documents=2), left_out=5)
    assert asdict(score) == pytest.approx(
        {
            "questions": 2,
            "left_out": 5,
            "loss_nats_per_token": 1.5,
            "bits_per_char": 2 / math.log(2),
            "exact_match": 0.5,
            "character_f1": (1 + 6 / 7) / 2,
            "stopped": 0.5,
            "distinct_2": 1.0,
            "answer_characters": 4.0,
        }
    )
    assert score.as_dict() == asdict(score)


@pytest.mark.parametrize(
    ("answer", "reference", "expected"),
    [
        ("一条河", "一条河", 1.0),
        ("河条一", "一条河", 1.0),
        ("哈哈哈", "哈", 2 * (1 / 3) * 1 / (1 / 3 + 1)),
        ("一 条\n", "一座", 0.5),
        ("山", "水", 0.0),
        ("", "水", 0.0),
        ("", " ", 1.0),
    ],
)
def test_characters_count_as_often_as_they_occur(answer, reference, expected):
    assert character_f1(answer, reference) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["一条河", "一座城"], 1.0),
        (["哈哈哈哈"], 1 / 3),
        (["一条", "一条"], 1 / 2),
        (["一 ", "条"], 0.0),
        ([], 0.0),
    ],
)
def test_repeated_pairs_of_characters_are_seen_within_and_across_answers(texts, expected):
    assert distinct_2(texts) == pytest.approx(expected)
