"""Rules that drop: each with its reason, and with what it must leave alone."""

import random

import pytest

from danlu.data.characters import Kind
from danlu.data.rules.boilerplate import CutBoilerplate
from danlu.data.rules.endings import FinishSentence
from danlu.data.rules.language import Chinese, Identified, py3langid
from danlu.data.rules.lines import ListLines, Menu
from danlu.data.rules.links import Links
from danlu.data.rules.quality import AtMost, FunctionWords, RepeatedSequences
from danlu.data.rules.repeated_lines import RepeatedLines
from danlu.errors import DataError
from danlu.types import Document, Drop

PROSE = "春天来了，山上的雪已经化了，村里的人都到田里去。孩子们在河边跑着、笑着，老人坐在门口晒太阳！"


def document(text: str) -> Document:
    return Document(text, "source", "1")


def reason(rule, text: str) -> str | None:
    answer = rule(document(text))
    return answer.reason if isinstance(answer, Drop) else None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (PROSE, None),
        ("用 Python 写的小程序，在 Windows 上也能跑。", "not_chinese"),
        ("这台 ThinkPad 很好用，我已经用了三年，没有任何问题。", None),
        ("The quick brown fox.", "not_chinese"),
        ("東京は日本の首都です。人がたくさん住んでいます。", "not_chinese"),
        ("12345 !!!", "not_chinese"),
    ],
)
def test_chinese_by_its_letters(text, expected):
    assert reason(Chinese(0.5, 0.1), text) == expected


def test_an_identifier_may_be_asked():
    rule = Identified(lambda text: ("zh" if "的" in text else "ja", 1.0))
    assert reason(rule, PROSE) is None
    assert reason(rule, "東京") == "other_language"


def test_py3langid_knows_chinese_and_japanese():
    pytest.importorskip("py3langid")
    rule = Identified(py3langid())
    assert reason(rule, PROSE) is None
    assert reason(rule, "東京は日本の首都です。人がたくさん住んでいます。") == "other_language"


def test_shares_count_characters():
    rule = AtMost(Kind.SYMBOL, 0.5, "symbols")
    assert reason(rule, "★★中中") is None
    assert reason(rule, "★★★中中") == "symbols"


def test_lists_of_keywords_have_no_words_of_grammar():
    rule = FunctionWords(0.005, 20)
    assert reason(rule, "空调维修，婚纱摄影，汽车贴膜，宠物医院，考研辅导，钢材厂家") == "few_function_words"
    assert reason(rule, "空调维修，婚纱摄影") is None
    assert reason(rule, PROSE) is None


def test_repeated_sequences_at_any_place():
    rule = RepeatedSequences(0.25, 0.3, 50)
    assert reason(rule, PROSE) is None
    assert reason(rule, PROSE * 2) == "repeated_sequences"
    assert reason(rule, "".join(f"第{i}次说，北京搬家" for i in range(20))) == "repeated_sequences"


def test_a_long_text_is_judged_by_its_windows():
    words = [chr(0x4E00 + i) + chr(0x5E00 + i) for i in range(1000)]
    long = "".join(random.Random(0).choices(words, k=200_000))
    whole = long[:8_000]
    assert reason(RepeatedSequences(0.25, 0.3, 50), whole) is None
    assert reason(RepeatedSequences(0.25, 0.3, 50), long) is None


def test_shares_of_repeats_against_a_plain_count():
    text = "".join(f"今天第{i % 7}次来到{'北京上海'[i % 2]}的街上，" for i in range(12))
    eights = [text[i : i + 8] for i in range(len(text) - 7)]
    share = (len(eights) - len(set(eights))) / len(text)
    assert reason(RepeatedSequences(share - 1e-9, 1, 8), text) == "repeated_sequences"
    assert reason(RepeatedSequences(share, 1, 8), text) is None
    fours = [text[i : i + 4] for i in range(len(text) - 3)]
    top = max(map(fours.count, fours)) * 4 / len(text)
    assert reason(RepeatedSequences(1, top - 1e-9, 8), text) == "repeated_sequences"
    assert reason(RepeatedSequences(1, top, 8), text) is None


def test_copies_of_lines():
    rule = RepeatedLines(0.3, 0.2)
    assert reason(rule, "一行\n二行\n三行\n一行") == "repeated_lines"  # a quarter of both
    assert reason(RepeatedLines(0.3, 0.3), "一行\n二行\n三行\n一行") is None
    assert reason(rule, f"{PROSE}\n\n一行\n一行\n二行\n三行") is None


def test_bullets_and_ellipses():
    rule = ListLines(0.9, 0.3, 4)
    assert reason(rule, "- 一\n* 二\n• 三\n■ 四") == "bullet_lines"
    assert reason(rule, "- 一\n- 二\n- 三") is None
    assert reason(rule, "一……\n二...\n三。\n四。") == "ellipsis_lines"
    assert reason(rule, "一……") is None


@pytest.mark.parametrize("between", ["\n", " | ", "\t", " ", " > ", "｜"])
def test_menus(between):
    entries = "主页 资讯 产品中心 解决方案 成功案例 服务支持 公司简介 企业文化 在线留言 下载专区 常见问题"
    menu = entries.replace(" ", between)
    assert reason(Menu(0.7, 8, 10), menu) == "menu"
    assert reason(Menu(0.7, 8, 10), f"{menu}\n{PROSE}{PROSE}") is None


def test_a_last_sentence_is_finished_or_goes():
    rule = FinishSentence(20, 0.5)
    assert rule(document(f"{PROSE}他转过身，")) == document(PROSE)
    assert rule(document(f"{PROSE}他说：“走吧。”然后")) == document(f"{PROSE}他说：“走吧。”")
    assert rule(document(PROSE + "价格是3.5元")) == document(PROSE)
    for ended in ("（新华社）", "好）", "end.", "说……", "》"):
        assert reason(rule, PROSE + ended) is None
        assert rule(document(PROSE + ended)).text == PROSE + ended
    assert reason(rule, "没有句号" * 10) == "unfinished"
    assert reason(rule, "没有句号") is None


def test_links():
    rule = Links(0.3, 0.5, 4)
    assert reason(rule, "新闻 http://www.example.com/a/12345") == "links"
    assert reason(rule, "\n".join(f"{PROSE} www.example.cn/{i}" for i in range(4))) == "links"
    assert reason(rule, f"{PROSE} 见 https://example.cn/a 。") is None


def test_boilerplate_lines_are_cut():
    rule = CutBoilerplate(100, 0.5)
    assert rule(document(f"{PROSE}\n版权所有 未经授权不得转载\n{PROSE}")) == document(f"{PROSE}\n{PROSE}")


def test_of_a_long_line_only_the_sentence_is_cut():
    rule = CutBoilerplate(100, 0.5)
    assert rule(document(f"{PROSE * 3}扫码关注微信公众号！{PROSE}")) == document(PROSE * 4)


def test_a_text_full_of_it_is_dropped():
    rule = CutBoilerplate(100, 0.5)
    assert reason(rule, "加微信wx123进群，限时秒杀！\n点击下方链接立即购买") == "advertisement"


def test_one_word_of_the_second_part_is_no_advertisement():
    for text in (
        "用了一张优惠券，很划算。",
        "店里的客服很耐心。",
        "他在电话里咨询了半天。",
        "增加群众收入，走进群众中去。",
    ):
        assert CutBoilerplate(100, 0.5)(document(text)) == document(text)


def test_a_list_of_ones_own(tmp_path):
    mine = tmp_path / "mine.txt"
    mine.write_text("# mine\n[one is enough]\n炼丹…秘方\n[two are needed]\n", encoding="utf-8")
    rule = CutBoilerplate(10, 0.9, mine)
    assert rule(document(f"{PROSE}炼丹的祖传秘方！{PROSE}")) == document(PROSE * 2)
    mine.with_name("other.txt").write_text("[three]\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"other\.txt: \[three\] is no part of a list of phrases"):
        CutBoilerplate(10, 0.9, tmp_path / "other.txt")
    with pytest.raises(DataError, match="cannot be read as a list of phrases"):
        CutBoilerplate(10, 0.9, tmp_path / "none.txt")
