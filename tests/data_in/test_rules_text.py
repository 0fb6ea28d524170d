"""Rules that change text: mojibake, width, runs, masks' neighbours. Twice is once, and nothing else is touched."""

import random
import sys
import time

import pytest

from danlu.data.characters import HALF_WIDTH, Kind, kinds
from danlu.data.clean import Rule, describe, normalise_lines
from danlu.data.rules.boilerplate import CutBoilerplate
from danlu.data.rules.encoding import Broken, RepairMojibake
from danlu.data.rules.endings import FinishSentence
from danlu.data.rules.markup import StripMarkup
from danlu.data.rules.normalise import ShortenRuns, Simplify, compose, half_width, unescape
from danlu.data.rules.privacy import MaskPersonal
from danlu.data.rules.recipes import Recipe, recipe
from danlu.data.rules.repeated_lines import RepeatedLines
from danlu.errors import DataError
from danlu.types import Document, Drop

SAMPLE = "新年伊始，《人民日报》在“专版”里说：今天我们都很高兴。我国的经济也已经有了很大的发展！"
EVERY_SECRET = ("email", "id_number", "bank_card", "phone", "ip_address")
CHANGING: list[Rule] = [
    RepairMojibake(0.2, ftfy=False),
    unescape,
    half_width,
    compose,
    ShortenRuns(3),
    StripMarkup(0.7),
    Broken(0.1, 0.5),
    CutBoilerplate(100, 0.5),
    RepeatedLines(1, 1),
    FinishSentence(20, 0.5),
    MaskPersonal(EVERY_SECRET),
]
PIECES = [
    *"的了是不在中国人民生活我们都很好，。！？…；：“”‘’（）《》〈〉、·—％＃１２ａＺ０ \n\t～~!?.,-+|/@_&;#(){}[]<>",
    *"é\u0301\u0323ﾊ가\uf900\u2126😀\ufffdÖÐ¹ä¸涓浗鐨锛\u3000\xa0",
    *["&nbsp;", "&#20013;", "&amp;", "&lt;", "&#x4e2d;", "138", "1381234", "5678", "010-", "6222", "1101011990"],
    *["0307", "a.b@c.cn", "192.168.", "8.8.8.8", "扫码关注", "点击", "下方", "领取优惠券", "包邮", "热线"],
    *["<p>", "</p>", "<br>", "<a href=x>", "<script>", "</script>", "<!--", "-->", "```", "&gt;", "&amp;lt;"],
    *["上一章", "来源：", "电话：", "8567", "＠", "张三\n", "2021年3月5日"],
    *["未经", "许可", "转载", "http://a.cn/", "ICP备"],
]


def document(text: str) -> Document:
    return Document(text, "source", "1", {"kept": True})


def text_of(rule: Rule, text: str) -> str | None:
    """Return what a rule makes of a text, None if it drops it."""
    answer = rule(document(text))
    return None if isinstance(answer, Drop) else answer.text


def nonsense(seed: int) -> str:
    rng = random.Random(seed)
    return "".join(rng.choices(PIECES, k=rng.randint(0, 80)))


@pytest.mark.parametrize("rule", CHANGING, ids=describe)
def test_twice_is_once_whatever_the_text(rule):
    for seed in range(2_000):
        once = text_of(rule, nonsense(seed))
        assert once is None or text_of(rule, once) == once, f"seed {seed}: {nonsense(seed)!r} -> {once!r}"


@pytest.mark.parametrize("rule", CHANGING, ids=describe)
def test_sound_text_stays_the_same_document(rule):
    sound = document(SAMPLE * 3)
    assert rule(sound) is sound


def test_half_width_touches_letters_and_digits_alone():
    everything = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x11000), *range(0x1F000, 0x1FA00)]))
    after = text_of(half_width, everything)
    assert after is not None
    changed = {(a, b) for a, b in zip(everything, after, strict=True) if a != b}
    assert changed == {(chr(a), chr(b)) for a, b in HALF_WIDTH.items()}
    assert text_of(half_width, "１２％，ＡＢ：（ｃ）！") == "12％，AB：（c）！"
    assert text_of(half_width, "增长５．２％．３．") == "增长5.2％．3．"


def test_compose_leaves_what_is_composed():
    assert text_of(compose, "cafe\u0301 \uf900") == "café 豈"
    untouched = "，。！？“”《》—…％１Ａ①㎏ﾊ　〈〉豈"
    assert text_of(compose, untouched) == untouched


def test_runs_of_signs_are_shortened_and_of_letters_not():
    assert (
        text_of(ShortenRuns(3), "好！！！！！！哈哈哈哈哈~~~~ 1000000    ……") == "好！！！哈哈哈哈哈~~~ 1000000    ……"
    )


def test_references_beyond_ascii_are_read():
    assert (
        text_of(unescape, "&#32431;&#x4e2d;&ldquo;好&rdquo;&nbsp;&lt;p&gt; &amp; AT&T;")
        == "纯中“好”\xa0&lt;p&gt; &amp; AT&T;"
    )
    assert text_of(unescape, "&amp;nbsp;") == "&amp;nbsp;"


@pytest.mark.parametrize("wrong", ["latin-1", "cp1252"])
def test_gbk_read_as_western_is_read_again(wrong):
    garbled = SAMPLE.encode("gb18030").decode(wrong)
    assert text_of(RepairMojibake(0.2, ftfy=False), garbled) == SAMPLE


def test_utf8_read_as_latin1_or_twice_is_read_again():
    once = SAMPLE.encode().decode("latin-1")
    assert text_of(RepairMojibake(0.2, ftfy=False), once) == SAMPLE
    assert text_of(RepairMojibake(0.2, ftfy=False), once.encode().decode("latin-1")) == SAMPLE


def test_utf8_read_as_gbk_is_read_again_where_no_byte_is_lost():
    even = "中国人民生活很好今天"
    assert text_of(RepairMojibake(0.2, ftfy=False), even.encode().decode("gb18030")) == even
    garbled = SAMPLE.encode().decode("gbk", "replace")
    assert RepairMojibake(0.2, ftfy=False)(document(garbled)) == Drop("mojibake")


@pytest.mark.parametrize(
    "text",
    ["什么是枸杞\n枸杞泡茶，明目。", "什么是榧子\n杀虫，香榧子。", "山楂是消食化积的好东西", "café déjà vu 是什么意思"],
)
def test_rare_characters_are_no_mojibake(text):
    assert text_of(RepairMojibake(0.2, ftfy=False), text) == text


def test_ftfy_repairs_single_sequences_and_changes_nothing_else():
    pytest.importorskip("ftfy")
    rule = RepairMojibake(0.2)
    assert text_of(rule, SAMPLE + "donâ€™t １２％ “好” ﬁ") == SAMPLE + "don’t １２％ “好” ﬁ"
    for seed in range(300):
        once = text_of(rule, nonsense(seed))
        assert once is None or text_of(rule, once) == once


def test_simplifying_is_an_option_and_twice_is_once():
    pytest.importorskip("opencc")
    assert text_of(Simplify(), "漢字轉換，臺灣「乾淨」的乾隆") == "汉字转换，台湾「干净」的乾隆"
    for seed in range(300):
        once = text_of(Simplify(), text_of(normalise_lines, nonsense(seed)) or "")
        assert text_of(Simplify(), once or "") == once


@pytest.mark.parametrize(
    ("package", "settings"),
    [
        ("ftfy", {}),
        ("opencc", {"ftfy": False, "simplify": True}),
        ("py3langid", {"ftfy": False, "identify": True}),
    ],
)
def test_a_missing_package_is_one_line_before_any_document(package, settings, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(DataError, match=rf"needs the package {package}: pip install -e \"\.\[clean\]\"$"):
        recipe("web", Recipe(**settings))


def test_lost_text_is_dropped():
    for lost in ("\ufffd" * 3, "锟斤拷", "\ue5e5\ue5e6\ue5e7"):
        assert Broken(0.01)(document(SAMPLE + lost)) == Drop("broken_text")
    assert text_of(Broken(0.1), SAMPLE + "\ufffd") is not None


def test_a_kind_for_every_code_point():
    assert sum(kinds("".join(map(chr, range(0x110000))))) == 0x110000
    assert kinds("中的涓aＡж1 ，★é\ufffd\u0301") == [1] * len(Kind)
    assert kinds("") == [0] * len(Kind)


TRAPS = [*"中a@（加!”.…Ａ \n\ud800", "13", "1-", "a@a.", "http://", "a\u0301\u0323", "\u0323\u0301", "点击", "&#1"]
TRAPS += ["ÖÐ", "涓浗", "未经", "11010119900101123", "6222 ", "1.2.3.", "a|", "锟斤拷", "啊\n", "Copyright "]
TRAPS += [
    "<p>",
    "<p",
    "</p>",
    "<script>",
    "<!--",
    "<<b></b>p>",
    "&amp;",
    "&amp;lt;",
    "``",
    "a`",
    "```",
    "\n ",
    "<b>\n\t",
]
TRAPS += [
    "上一章",
    "上一章\n",
    "来源：\n",
    "第页",
    "电话8567",
    "电话8567123、",
    "138-1234-",
    "4 0 0 ",
    "12345678901一行字\n",
    "あ中。",
    "Ãé\n",
]


@pytest.mark.parametrize("trap", TRAPS, ids=repr)
def test_no_text_of_a_million_characters_takes_long(trap):
    rules = recipe("web", Recipe(ftfy=False, masked=EVERY_SECRET))
    long = document((trap * (1_000_000 // len(trap) + 1))[:1_000_000])
    start = time.process_time()
    for rule in rules:
        rule(long)
    assert time.process_time() - start < 10


def test_html_is_taken_off_and_what_only_looks_like_it_stays():
    rule = StripMarkup(0.7)
    assert (
        text_of(rule, "<p class='x'>一段话说到这里。</p><p>两段话&amp;&lt;三段&#x4e2d;</p>")
        == "一段话说到这里。\n两段话&<三段中"
    )
    assert (
        text_of(rule, "<table><tr><td>甲</td><td>乙丙丁戊己庚辛壬癸</td></tr></table>" + SAMPLE)
        == f"甲  乙丙丁戊己庚辛壬癸\n{SAMPLE}"
    )
    assert text_of(rule, SAMPLE + "<SCRIPT>if (a<b) x()</SCRIPT><!-- <b>注</b> -->") == SAMPLE
    for text in (
        "a<b，c>d",
        "map<int, b> List<Object>",
        "用 <b> 和 <i> 标签",
        "`<p>一</p>`",
        "```\n<p>一</p>\n",
        "AT&T; &xyz;",
    ):
        assert text_of(rule, text) == text
    assert rule(document("<li><a href='/12345'>一</a></li>" * 9)) == Drop("markup")
    assert rule(document("<<b></b>p>一</p>" * 9)) == Drop("markup")  # which makes new tags again and again


def test_a_garbled_line_goes_or_is_read_again_and_the_others_stay():
    rule = RepairMojibake(0.2, ftfy=False)
    line = "今天我们都很高兴。"
    text = "\n".join([SAMPLE] * 5)
    assert text_of(rule, f"{text}\n{line.encode().decode('latin-1')}\n{SAMPLE}") == f"{text}\n{line}\n{SAMPLE}"
    assert text_of(rule, f"{text}\n{line.encode().decode('gbk', 'replace')}\n{SAMPLE}") == f"{text}\n{SAMPLE}"
    for sound in ("枸杞、榧子、山楂、茯苓", "René Müller, Zoë Garçon"):
        assert text_of(rule, f"{text}\n{sound}") == f"{text}\n{sound}"
    assert text_of(Broken(0.01, 0.2), f"{text}\n{line}\ufffd\ufffd锟斤拷") == text
    assert Broken(0.01, 0.2)(document(f"{SAMPLE}\n{SAMPLE}锟斤拷锟斤拷锟斤拷")) == Drop("broken_text")
