"""Rules that drop: each with its reason, and with what it must leave alone."""

import random

import pytest

from danlu.data.characters import Kind
from danlu.data.rules.boilerplate import CutBoilerplate
from danlu.data.rules.endings import FinishSentence
from danlu.data.rules.language import Chinese, Identified, py3langid
from danlu.data.rules.lines import Headlines, ListLines, Menu
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
        (f"{PROSE}" + "The spring has come and the snow has gone from all the hills. " * 2, None),
        (f"{PROSE}" + "The spring has come and the snow has gone from all the hills. " * 9, "not_chinese"),
        (f"日语里“ありがとうございます。”是谢谢，{PROSE}", None),
    ],
)
def test_chinese_by_its_letters(text, expected):
    assert reason(Chinese(0.5, 0.1, 0.3), text) == expected


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


VERSE = [f"我在{place}等你的{thing}" for place in "山河湖海" for thing in ("信", "歌", "花")]


def test_a_refrain_is_no_repetition_but_a_line_said_all_the_time_is():
    rule, refrain = RepeatedLines(0.3, 0.2, 0.6, 0.1), ["啊我们的故乡", "流过少年的时候"]
    song = "\n".join([*VERSE[:6], *refrain, *VERSE[6:], *refrain * 4])
    assert reason(RepeatedLines(0.3, 0.2), song) == "repeated_lines"
    assert reason(rule, song) is None
    assert reason(rule, "\n".join([*VERSE, *refrain * 20])) == "repeated_lines"
    assert reason(rule, "\n".join(["我在山河等你的信", "你在海上等我的歌"] * 9)) == "repeated_lines"


def test_lines_between_chapters_are_cut():
    rule = RepeatedLines(1, 0.2)
    chapters = [f"第{i}章\n{PROSE}{i}。\n{i}{PROSE}{i}{PROSE}{i}{PROSE}" for i in range(6)]
    book = "\n".join(chapters)
    assert rule(document("\n某某书屋 最快更新\n".join([*chapters, ""]))) == document(book)
    for mine in ("“嗯。”", "* * *", "哈姆雷特"):
        text = f"\n{mine}\n".join(chapters)
        assert rule(document(text)) == document(text)
    dense = "\n某某书屋 最快更新\n".join("一二三四五六七八九十")
    assert reason(rule, dense) == "repeated_lines"


def test_lists_of_headlines():
    rule = Headlines(0.8, 0.1, 4)
    titles = "全市召开春耕工作会议\n城区三条道路改造\n图书馆延长开放时间\n女篮联赛主场三连胜"
    assert reason(rule, titles) == "headlines"
    assert reason(rule, f"{titles}\n{PROSE}") is None
    assert reason(rule, "\n".join(VERSE)) is None
    assert reason(rule, "颜色：深蓝与浅灰\n尺寸：中号大号加大\n材质：纯棉针织面料\n产地：浙江省绍兴市") is None


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


def test_a_signature_is_no_broken_sentence():
    rule = FinishSentence(20, 0.5, 0.1)
    for end in ("\n张三\n2021年3月5日", "2021年3月5日", " 张三 2021-03-05", "——张三", "\n二〇二一年三月五日，于北京"):
        assert rule(document(PROSE + end)) == document(PROSE + end)
    assert rule(document(f"{PROSE}\n关键词：春天；村庄")) == document(f"{PROSE}\n关键词：春天；村庄")
    for end in (
        "他生于2021年3月5日的早上，后来",
        "\n您还没有登录，请先登录再发帖",
        "\n更多请看 www.example.cn",
        "\n他转过身，",
    ):
        assert rule(document(PROSE + end)) == document(PROSE)
    assert reason(rule, "\n".join(VERSE)) is None


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


def test_of_a_short_line_the_sentence_is_cut_where_most_of_it_is_good():
    rule = CutBoilerplate(100, 0.5)
    assert rule(document(f"{PROSE}扫码关注微信公众号！")) == document(PROSE)


def test_lines_made_of_controls_and_names_of_editors_are_cut():
    rule = CutBoilerplate(100, 0.5)
    for line in (
        "上一章 目录 下一章",
        "点赞(12) | 收藏 | 转发",
        "[打印] [关闭]",
        "共 3 页 第 1 页",
        "来源:新华社",
        "编辑 | 王明",
    ):
        assert rule(document(f"{PROSE}\n{line}\n{PROSE}")) == document(f"{PROSE}\n{PROSE}")
        kept = document(f"{PROSE}\n{line}\n{PROSE}")
        assert CutBoilerplate(100, 0.5, page_lines=False)(kept) == kept
    for line in ("来源：本品为豆科植物的干燥根。", "上一章讲了函数", "点赞的人很多", "目录学", "版权所有者有权起诉"):
        assert rule(document(f"{PROSE}\n{line}")) == document(f"{PROSE}\n{line}")


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
