"""Statistics of conversations: every figure agrees with a plain computation; what cannot be learned from is counted."""

import random
from pathlib import Path

import numpy as np
import pytest

from danlu.data.chat import Conversations
from danlu.data.chat_stats import ChatStats
from danlu.data.sources import Corpus
from danlu.data.template import ChatTemplate
from danlu.types import Document

HEAD = Path(__file__).parents[1] / "data" / "sft_mini_head6.jsonl"


def counted(*records: dict, **options) -> dict:
    stats = ChatStats(**options)
    stats.add(Document("", "chat.jsonl", str(n), record) for n, record in enumerate(records, 1))
    return stats.as_dict()


def qa(question: str, answer: str, **more) -> dict:
    return {"question": question, "answer": answer, **more}


def talk(*contents: str) -> dict:
    roles = ("user", "assistant") * len(contents)
    return {"messages": [{"role": r, "content": c} for r, c in zip(roles, contents, strict=False)]}


PREFERENCE = {"prompt": "长江有多长？", "chosen": "约6300公里。", "rejected": "不知道"}


def test_turns_and_characters_are_those_of_a_plain_computation():
    rng = random.Random(0)
    talks = [["字" * rng.randint(1, 300) for _ in range(2 * rng.randint(1, 4))] for _ in range(200)]
    result = counted(*(talk(*contents) for contents in talks))
    assert (result["conversations"], result["preferences"]) == (200, 0)
    for key, values in (
        ("turns", list(map(len, talks))),
        ("question_chars", [len(c) for contents in talks for c in contents[::2]]),
        ("answer_chars", [len(c) for contents in talks for c in contents[1::2]]),
    ):
        assert result[key]["total"] == sum(values)
        assert result[key]["mean"] == pytest.approx(np.mean(values))
        for percent in (5, 50, 95):
            expected = np.percentile(values, percent, method="inverted_cdf")
            assert result[key]["percentiles"][f"p{percent}"] == expected


def test_tokens_are_those_that_finetuning_sees(tokenizer):
    template = ChatTemplate(tokenizer)
    encoded = [template.encode(c.messages) for c in Conversations(Corpus([str(HEAD)], text_key=None))]
    lengths = [len(e.ids) for e in encoded]
    context = sorted(lengths)[3] - 1  # the fourth just fits, with the token that is predicted last
    stats = ChatStats(template, context)
    stats.add(Corpus([str(HEAD)], text_key=None))
    tokens = stats.as_dict()["tokens"]
    assert (tokens["total"], tokens["percentiles"]["max"]) == (sum(lengths), max(lengths))
    scored = sum(sum(e.scored) for e in encoded)
    assert tokens["scored"] == {"count": scored, "share": scored / sum(lengths)}
    assert (tokens["context"], tokens["too_long"]) == (context, {"count": 2, "share": 2 / 6})


def test_a_preference_is_two_conversations_and_each_message_once(tokenizer):
    template = ChatTemplate(tokenizer)
    result = counted(PREFERENCE, template=template)
    assert (result["conversations"], result["preferences"], result["turns"]["total"]) == (0, 1, 4)
    assert result["question_chars"]["total"] == len("长江有多长？")
    assert result["answer_chars"]["total"] == len("约6300公里。不知道")
    sides = counted(qa("长江有多长？", "约6300公里。"), qa("长江有多长？", "不知道"), template=template)
    assert result["tokens"] == sides["tokens"]


def test_copies_of_the_whole_and_of_the_first_question_are_told_apart():
    result = counted(qa("一", "二"), qa("一 ", "二"), qa("一", "三"), talk("一", "四", "五", "六"), qa("七", "二"))
    assert result["duplicates"] == {"count": 1, "share": 1 / 5}
    assert result["question_duplicates"] == {"count": 3, "share": 3 / 5}


def test_system_messages_and_openings_of_answers_are_counted():
    greeting = "您好，我是人工智能助手，"
    records = [qa(f"{n}？", f"{greeting}{n}", system="你是助手。") for n in range(5)]
    result = counted(*records, qa("你好", "好"))
    assert result["with_system"] == {"count": 5, "share": 5 / 6}
    assert result["common_openings"] == [{"opening": greeting, "count": 5}]


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"text": "没有问题"}, "unreadable"),
        ({"messages": [{"role": "tool", "content": "好"}]}, "unreadable"),
        ({"messages": [{"role": "assistant", "content": "好"}]}, "out_of_order"),
        (talk("好"), "no_answer"),
        (qa(" ", "好"), "empty_question"),
        (qa("好", ""), "empty_answer"),
        ({**PREFERENCE, "rejected": PREFERENCE["chosen"]}, "no_difference"),
        (qa("\ud800", "好"), "not_encoded"),
    ],
)
def test_what_cannot_be_learned_from_is_counted_by_reason_and_nowhere_else(tokenizer, record, reason):
    result = counted(qa("一", "二"), record, {"text": "也没有"}, template=ChatTemplate(tokenizer))
    expected = dict.fromkeys(result["refused"], 0)
    expected["unreadable"] += 1
    expected[reason] += 1
    assert result["refused"] == expected
    assert result["first_refused"].startswith("chat.jsonl, record 2: ")
    good = counted(qa("一", "二"), template=ChatTemplate(tokenizer))
    counts = [{k: v for k, v in r.items() if "refused" not in k} for r in (result, good)]
    assert counts[0] == counts[1]


def test_nothing_but_refused_records_is_no_division_by_zero():
    result = counted({"text": "没有问题"})
    assert result["turns"] == {"total": 0, "mean": 0, "percentiles": {}}
    assert result["first_refused"].startswith("chat.jsonl, record 1: is of no known shape")
