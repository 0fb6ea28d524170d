"""Conversations in the shapes people keep them in; wrong ones are one clear line with the record's number."""

import json
from pathlib import Path

import pytest

from danlu.data.chat import Conversation, Conversations, Message, Preference, parse
from danlu.data.sources import Corpus
from danlu.errors import DataError

QUESTION, ANSWER = Message("user", "长江有多长？"), Message("assistant", "约6300公里。")
ONE_TURN = (QUESTION, ANSWER)


@pytest.mark.parametrize(
    "record",
    [
        {"messages": [{"role": "user", "content": "长江有多长？"}, {"role": "assistant", "content": "约6300公里。"}]},
        {"conversations": [{"from": "human", "value": "长江有多长？"}, {"from": "gpt", "value": "约6300公里。"}]},
        {
            "conversations": [
                {"role": "User", "content": "长江有多长？"},
                {"role": "assistant", "content": "约6300公里。"},
            ]
        },
        {"instruction": "长江有多长？", "input": "", "output": "约6300公里。"},
        {"question": "长江有多长？", "answer": "约6300公里。"},
        {"prompt": "长江有多长？", "response": "约6300公里。", "id": 7},
    ],
)
def test_every_shape_is_seen_from_its_keys(record):
    assert parse(record).messages == ONE_TURN


def test_alpaca_input_system_and_history_come_along():
    record = {
        "system": "你是地理老师。",
        "instruction": "翻译",
        "input": "river",
        "output": "河",
        "history": [["你好", "你好！"]],
    }
    assert [(m.role, m.content) for m in parse(record).messages] == [
        ("system", "你是地理老师。"),
        ("user", "你好"),
        ("assistant", "你好！"),
        ("user", "翻译\nriver"),
        ("assistant", "河"),
    ]


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": "长江有多长？", "chosen": "约6300公里。", "rejected": "不知道"},
        {
            "prompt": "长江有多长？",
            "chosen": [{"role": "assistant", "content": "约6300公里。"}],
            "rejected": [{"role": "assistant", "content": "不知道"}],
        },
        {
            "chosen": [{"role": "user", "content": "长江有多长？"}, {"role": "assistant", "content": "约6300公里。"}],
            "rejected": [{"role": "user", "content": "长江有多长？"}, {"role": "assistant", "content": "不知道"}],
        },
    ],
)
def test_preferences_share_their_prompt(record):
    expected = Preference((QUESTION,), (ANSWER,), (Message("assistant", "不知道"),), "", "")
    assert parse(record) == expected


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"text": "没有问题"}, "no known shape .*没有问题"),
        ({"messages": [{"role": "assistant", "content": "好"}]}, "turn 1 is the assistant's, not the user's"),
        ({"messages": [{"role": "user", "content": "好"}]}, "does not end with an answer"),
        ({"messages": [{"role": "user", "content": "好"}, {"role": "assistant", "content": "  "}]}, "turn 2.*is empty"),
        ({"messages": [{"role": "tool", "content": "好"}]}, "role 'tool'"),
        ({"messages": [{"role": "user", "content": None}]}, "turn 1 has no text"),
        ({"messages": ["好"]}, "turn 1 is no object"),
        ({"messages": []}, "does not end with an answer"),
        ({"prompt": "好", "chosen": "是", "rejected": "是"}, "are the same"),
        ({"chosen": "是", "rejected": "否"}, "no prompt"),
        ({"prompt": "好", "chosen": 1, "rejected": "否"}, "neither messages nor texts"),
        ({"question": "一", "answer": "二", "history": [["三"]]}, "history"),
    ],
)
def test_what_is_wrong_is_said(record, message):
    with pytest.raises(DataError, match=message) as caught:
        parse(record)
    assert "\n" not in str(caught.value)


def written(tmp_path, *records):
    path = tmp_path / "chat.jsonl"
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))
    return str(path)


def test_a_wrong_record_is_named_by_its_file_and_number(tmp_path):
    path = written(tmp_path, {"question": "一", "answer": "二"}, {"question": "三"})
    with pytest.raises(DataError, match=r"chat.jsonl, record 2: is of no known shape"):
        list(Conversations(Corpus([path], text_key=None)))


def test_wrong_records_are_counted_and_passed_over_if_asked(tmp_path):
    path = written(tmp_path, {"question": "一", "answer": "二"}, {"question": "三"}, {"question": "四", "answer": "五"})
    corpus = Corpus([path], text_key=None, skip_bad=True)
    found = list(Conversations(corpus))
    assert all(isinstance(c, Conversation) for c in found)
    assert [c.messages[0].content for c in found] == ["一", "四"]
    assert corpus.skipped == 1


def test_real_conversations_are_read():
    path = Path(__file__).parents[1] / "data" / "sft_mini_head6.jsonl"
    found = list(Conversations(Corpus([str(path)], text_key=None)))
    assert len(found) == 6
    assert all(c.messages[-1].role == "assistant" for c in found)
