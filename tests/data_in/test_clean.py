"""Cleaning: each rule keeps or drops with a reason, and the counts say so."""

import json
import random
import re
from pathlib import Path

import pytest

from danlu.data.clean import Counts, at_least, clean, default_rules, normalise_lines, strip_wrappers
from danlu.types import Document, Drop

HEAD = Path(__file__).parents[1] / "data" / "pretrain_hq_head6.jsonl"


def document(text: str) -> Document:
    return Document(text, "source", "1", {"kept": True})


def cleaned(text: str, min_chars: int = 1) -> list[str]:
    return [d.text for d in clean([document(text)], default_rules(min_chars), Counts())]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<s>一</s>", "一"),
        ("<|im_start|>一<|im_end|>", "一"),
        (" <s> 一 </s> \n", "一"),
        ("\ufeff<s>一</s>\r\n", "一"),
        ("<s>一</s> <s>二</s>", "一\n二"),
        ("<|im_start|>一<|im_end|> <|im_start|>二<|im_end|> <|im_start|>三<|im_end|>", "一\n二\n三"),
        ("<s>一</s><s>二</s></s>", "一\n二"),
        ("<s>一", "一"),
        ("一<|im_end|>", "一"),
        ("<s>一</s> <s>", "一"),
        ("a < b", "a < b"),
    ],
)
def test_both_editions_wrappers_come_off_and_a_line_stays_one_document(text, expected):
    assert cleaned(text) == [expected]


@pytest.mark.parametrize("text", ["HTML 的 <s>删除线</s> 标签", "记号 <|im_end|> 的意思", "一 <|im_start|> 二"])
def test_a_mark_that_a_text_is_about_stays(text):
    assert cleaned(text) == [text]


def test_real_lines_of_pretrain_hq_lose_their_wrappers_and_nothing_else():
    for line in HEAD.read_text(encoding="utf-8").splitlines():
        text = json.loads(line)["text"]
        (result,) = cleaned(text)
        parts = text.split("<|im_start|>")[1:]
        assert result == "\n".join(part.strip().removesuffix("<|im_end|>") for part in parts)


def test_a_long_run_of_white_space_takes_no_quadratic_time():
    text = "<" + " " * 1_000_000 + "炉"
    assert cleaned(text) == [text]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\u2028", "\u2029", "\x85", "\x0b", "\x0c"])
def test_every_line_end_becomes_a_newline(end):
    assert cleaned(f"一{end}二") == ["一\n二"]


def test_control_characters_go_and_tabs_and_full_width_signs_stay():
    assert cleaned("\x00一\x07\t二\x1b\x7f\x9f\u200b\ufeff，Ａ。\x1f") == ["一\t二，Ａ。"]


def test_lone_surrogates_go_and_pairs_stay():
    assert cleaned(json.loads('"一\\ud83d二\\udc00\\ud83d\\ude00"')) == ["一二😀"]


def test_too_short_and_empty_are_dropped_with_their_reasons():
    assert at_least(2)(document("")) == Drop("empty")
    assert at_least(2)(document("一")) == Drop("too_short")
    assert at_least(2)(document("一二")) == document("一二")


def test_counts_add_up():
    texts = ["一二三", "<s></s>", " \u200b ", "一", "<s>一二</s>"]
    counts = Counts()
    kept = list(clean(map(document, texts), default_rules(2), counts))
    assert [d.text for d in kept] == ["一二三", "一二"]
    assert (counts.documents, counts.kept, counts.characters) == (5, 2, 5)
    assert counts.dropped == {"empty": 2, "too_short": 1}


def test_a_rule_after_a_drop_is_not_asked():
    def never(_: Document) -> Document:
        raise AssertionError

    assert list(clean([document("")], [at_least(1), never], Counts())) == []


def test_rules_keep_what_else_the_document_holds():
    for rule in (normalise_lines, strip_wrappers):
        assert rule(document("<s>一</s>\r")).meta == {"kept": True}


@pytest.mark.parametrize("text", ["<s>一</s> <s>二</s>", "一\r\n\x00二 ", "<|im_start|> <|im_end|>"])
def test_cleaning_twice_is_cleaning_once(text):
    once = cleaned(text)
    assert [again for text in once for again in cleaned(text)] == once


def test_wrappers_come_off_as_three_plain_expressions_say():
    start, end, space = r"(?:<\|im_start\|>|<s>)", r"(?:<\|im_end\|>|</s>)", r"(?<!\s)\s*"
    rng = random.Random(0)
    marks = ["<|im_start|>", "<|im_end|>", "<s>", "</s>", " ", "  ", "\n", "\u3000", "\x1c", "a", "文", "<"]
    for _ in range(20_000):
        text = "".join(rng.choice(marks) for _ in range(rng.randint(0, 14)))
        expected = re.sub(rf"\A(?:\s*{start})+\s*", "", text)
        expected = re.sub(rf"{space}(?:{end}\s*)+\Z", "", expected)
        expected = re.sub(rf"{space}{end}\s*{start}\s*", "\n", expected).strip() if "<" in text else text
        found = strip_wrappers(Document(text, "test", "1"))
        assert isinstance(found, Document)
        assert found.text == expected, repr(text)
