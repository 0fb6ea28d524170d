"""Contamination: documents that hold an evaluation text go, whatever was done to its spacing; common phrases stay."""

import itertools
import pickle
import random
import re

import alike
import pytest

from danlu.data.contamination import Contamination, Decontaminate
from danlu.data.grams import BLOCK
from danlu.types import Document, Drop


def document(text: str) -> Document:
    return Document(text, "source", "1")


@pytest.fixture(scope="module")
def pool():
    return alike.random_sentences(4000)


@pytest.fixture(scope="module")
def questions(pool):
    rng = random.Random(0)
    return [alike.text(rng, pool[:2000], rng.choice([30, 100, 300])) for _ in range(60)]


def folded(text: str) -> str:
    return "".join(c for c in text.lower() if c.isalnum())


def by_substrings(text: str, evaluation: list[str], settings: Decontaminate) -> list[int]:
    """Look for each sequence of each evaluation text as a string."""
    found, bare = [], folded(text)
    for number, one in enumerate(map(folded, evaluation)):
        sequences = {one[i : i + settings.gram] for i in range(len(one) - settings.gram + 1)}
        share = -(-len(sequences) * round(settings.share * 100) // 100)
        needed = min(len(sequences), max(min(share, settings.enough), settings.fewest))
        if sequences and sum(sequence in bare for sequence in sequences) >= needed:
            found.append(number)
    return found


@pytest.mark.parametrize("settings", [Decontaminate(), Decontaminate(gram=5, share=0.5, fewest=1, enough=30)])
def test_what_is_found_equals_a_search_by_strings(pool, questions, settings):
    rng = random.Random(1)
    rule = Contamination.of(questions, settings)
    hits = 0
    for _ in range(120):
        text = alike.text(rng, pool[2000:], 200)
        one = rng.choice(questions)
        start = rng.randrange(len(one))
        text = text[:100] + one[start : start + rng.randrange(len(one))] + text[100:]
        text = alike.edited(rng, text, pool, rng.choice([0.01, 0.1]))
        expected = by_substrings(text, questions, settings)
        assert rule.texts_in(text) == expected
        hits += len(expected)
    assert 20 < hits < 116


def test_spacing_width_case_and_punctuation_hide_nothing():
    question = "已知函数f(x)=2x+1，求它在区间[0,3]上的最大值和最小值，并说明理由。"
    rule = Contamination.of([question])
    hidden = "甲" * 50 + "\n".join("已知函数F(X)＝２Ｘ＋１求它在区间【０，３】上的最大值和最小值并说明理由") + "乙" * 50
    assert rule(document(hidden)) == Drop("contaminated")


def test_which_text_was_found_how_often_is_counted(pool):
    questions = ["".join(pool[n : n + 3]) for n in range(0, 30, 3)]
    rule = Contamination.of(questions)
    for text in (questions[3], questions[5] + questions[3], "别的" * 100):
        rule(document(text))
    assert rule.found == {3: 2, 5: 1}
    assert rule.openings[3] == questions[3][:60]


def test_one_phrase_in_common_is_no_contamination():
    phrase = "中华人民共和国国务院办公厅"
    rule = Contamination.of([f"{phrase}昨天发出通知，要求各地切实做好春耕生产工作，保证农民增加收入。"])
    good = document(f"据新华社报道，{phrase}主任会见了外宾。")
    assert rule(good) is good


def test_a_text_barely_longer_than_a_sequence_has_to_be_there_whole():
    rule = Contamination.of(["红楼梦的作者是谁，请简要介绍他的生平"])
    assert rule(document("题目：红楼梦的作者是谁？请简要介绍他的生平。答案：")) == Drop("contaminated")
    assert isinstance(rule(document("红楼梦的作者是谁？请简要介绍他的家庭。")), Document)


def test_texts_that_are_too_short_are_not_looked_for_and_that_is_said():
    rule = Contamination.of(["首都是哪里？", "", "GDP是什么意思", "春眠不觉晓，处处闻啼鸟。夜来风雨声，花落知多少。"])
    assert rule.not_looked_for == 3
    assert isinstance(rule(document("首都是哪里？GDP是什么意思？" * 20)), Document)


@pytest.mark.parametrize("around", ["题目：{}\n答案：北京。", "{}", "1. {}\n2. 别的", "——（{}）"])
@pytest.mark.parametrize("shown", ["中国的首都是哪里？", "中国 的\u3000首都，是哪里", "中国的首都\n是哪里？"])
def test_a_short_text_is_found_where_it_stands_alone(around, shown):
    rule = Contamination.of(["中国的首都是哪里？"])
    assert rule.not_looked_for == 0
    assert rule(document(around.format(shown))) == Drop("contaminated")


@pytest.mark.parametrize("question", ["中国的首都是哪里？", "下列哪一项不属于我国四大发明？"])
@pytest.mark.parametrize("answer", ["浑天仪", "火药\n指南针\n浑天仪\n造纸术\nC"])
def test_a_question_is_found_whatever_stands_between_it_and_its_answers(question, answer):
    rule = Contamination.of([f"{question}\n{answer}"])
    assert rule.not_looked_for == 0
    options = "A. 火药 B. 指南针 C. 浑天仪 D. 造纸术"
    assert rule(document(f"第三题：{question}（本题五分）\n{options}")) == Drop("contaminated")
    assert isinstance(rule(document(f"{options}，都是我国古代的发明。")), Document)


@pytest.mark.parametrize("text", ["他问中国的首都是哪里。", "中国的首都是哪里来的？", "中国的首都 是哪里 啊"])
def test_a_short_text_within_a_longer_sentence_is_common_speech(text):
    assert isinstance(Contamination.of(["中国的首都是哪里？"])(document(text)), Document)


def alone(one: str, text: str) -> bool:
    """Look with a regular expression for a text with any signs within, but none of its letters' neighbours letters."""
    within = r"[\W_]*".join(folded(one))
    return re.search(rf"(?<!\w){within}(?!\w)", text.replace(" ", "").lower()) is not None


def test_short_texts_are_found_as_often_as_by_a_search_with_expressions(pool):
    rng = random.Random(5)
    short = [sentence[:size] for sentence, size in zip(pool[:300], itertools.cycle(range(7, 13)), strict=False)]
    rule = Contamination.of(short)
    hits = 0
    for _ in range(300):
        parts = rng.choices(short, k=rng.randint(1, 4)) + rng.choices(pool[1000:], k=2)
        rng.shuffle(parts)
        text = "".join(part + rng.choice(["", "", "，", "。\n", " "]) for part in parts)
        expected = [number for number, one in enumerate(short) if alone(one, text)]
        assert rule.texts_in(text) == expected
        hits += len(expected)
    assert hits > 100


def test_a_short_text_is_found_where_two_blocks_of_a_document_meet():
    rule = Contamination.of(["中国的首都是哪里？"])
    for before in range(BLOCK - 20, BLOCK + 5):
        assert rule.texts_in("前" * before + "！？中国的首都是哪里……" + "后" * 100) == [0]
        assert rule.texts_in("前" * before + "！？中国的首都是哪里" + "后" * 100) == []
        assert rule.texts_in("前" * before + "中国的首都是哪里") == []
        assert rule.texts_in("！" * before + "中国的首都是哪里") == [0]


def test_a_template_that_the_texts_share_is_no_contamination(pool):
    template = "以下是中国历史考试的单项选择题，请选出其中正确的答案并且说明你选择它的理由："
    evaluation = [template + sentence for sentence in pool[:40]]
    rule = Contamination.of(evaluation)
    good = document(template + "秦始皇统一六国是在哪一年？")
    assert rule(good) is good
    assert rule(document("他问道：" + evaluation[7])) == Drop("contaminated")


def test_a_passage_with_several_questions_is_still_looked_for(pool):
    passage = "".join(pool[:6])
    rule = Contamination.of([passage + question for question in pool[100:108]] + pool[200:300])
    assert rule.texts_in("前言。" + passage + "后记。") == list(range(8))


def test_a_long_text_is_found_by_a_part_of_it_that_is_long_enough(pool):
    novel = "".join(pool[:500])
    rule = Contamination.of([novel])
    assert rule(document("书评：" + novel[3000:3400])) == Drop("contaminated")
    assert isinstance(rule(document("书评：" + novel[3000:3100])), Document)


def test_a_text_is_found_where_two_blocks_of_a_document_meet(pool):
    question = "".join(pool[:3])
    rule = Contamination.of([question])
    for before in range(BLOCK - 60, BLOCK + 5, 7):
        assert rule.texts_in("前" * before + question + "后" * 100) == [0]


def test_two_texts_that_are_the_same_are_both_found():
    text = "春眠不觉晓，处处闻啼鸟。夜来风雨声，花落知多少。"
    assert Contamination.of([text, "无关" * 20, text]).texts_in(text) == [0, 2]


@pytest.mark.parametrize("texts", [[], [""], ["短"]])
def test_nothing_to_look_for_finds_nothing(texts):
    rule = Contamination.of(texts)
    assert rule(document("春眠不觉晓，处处闻啼鸟。" * 5)).__class__ is Document
    assert rule(document("")).__class__ is Document


def test_a_rule_sent_to_another_process_says_the_same(questions):
    again = pickle.loads(pickle.dumps(Contamination.of(questions)))
    assert again.texts_in(questions[9]) == [9]
    assert not again.found
