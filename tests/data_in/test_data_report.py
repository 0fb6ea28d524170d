"""The data report: one whole page that asks for nothing, shows the survey's figures, and takes no text for a page."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from whole_page import Page

from danlu import cli
from danlu.data.characters import Kind
from danlu.data.profile import LANGUAGES
from danlu.data.report import write_report
from danlu.data.report.pictures import _KINDS
from danlu.data.report.words import RULES, WORDS
from danlu.data.survey import Survey
from danlu.errors import OutputError
from danlu.types import Document

HOSTILE = (
    "</script><script>alert(1)</script><img src=x onerror=alert(2)>&amp;\"'__CARDS__ \u2028\u202e\x00\x1b[31m\ud800"
    "</p></article><style>*{display:none}</style><!-- ]]> https://x.y"
)
OPENING = "基于以上这段文本，请回答"
FIELDS = {"documents", "characters", "percentiles", "common_openings", "histogram", "report", "skipped", "lines"}


def cleaned() -> Survey:
    """A corpus of 600 documents: a third dropped, a third changed, some of everything else."""
    survey = Survey()
    for n in range(600):
        document = Document(f"{OPENING}第{n}个问题，电话13800138000。" * (1 + n % 3), f"源{n % 2}.jsonl", f"记录{n}")
        survey.read(document)
        if n % 3 == 0:
            survey.dropped(document, "too_many_links" if n % 2 else "menu", "links")
        elif n % 3 == 1:
            after = Document(document.text.replace("13800138000", "〈电话〉"), document.source, document.id)
            survey.changed(document, after, "mask_personal")
            survey.repeats(document, ["版权所有，未经授权不得转载。"])
            survey.kept(after)
        else:
            survey.kept(document)
    firsts = np.arange(600)
    firsts[10:17] = 10
    for cluster in survey.clusters(firsts):
        for n in range(6):
            survey.member(cluster, Document(f"近重复的文字，第{n}种写法", "源0.jsonl", "十"), stayed=n == 5)
    survey.contamination({"珠穆朗玛峰有多高？": 12})
    return survey


def read_only() -> Survey:
    survey = Survey()
    for n in range(50):
        survey.read(Document(f"第{n}篇。", "a.txt", str(n)))
    return survey


def hostile() -> Survey:
    survey = Survey()
    document = Document(HOSTILE, HOSTILE, HOSTILE)
    survey.read(document)
    survey.read(Document(HOSTILE * 200, HOSTILE, "2"))  # cut somewhere
    survey.dropped(document, HOSTILE, HOSTILE)
    survey.changed(document, Document("<b>" + HOSTILE[::-1], "", ""), HOSTILE)
    survey.kept(document)
    survey.repeats(document, [HOSTILE, HOSTILE])
    survey.contamination({HOSTILE: 3})
    survey.member(next(iter(survey.clusters(np.array([0, 0])))), document)
    return survey


def page_of(survey: Survey, folder: Path, **more) -> Page:
    return Page(write_report(survey.as_dict(), folder / "report.html", **more).read_text(encoding="utf-8"))


def test_the_page_shows_what_was_cleaned(tmp_path):
    shown = page_of(cleaned(), tmp_path, title="语料", about={"recipe": "web", "seconds": 12.5}).text
    for words in (
        "语料",
        "400 of 600 documents",
        "too many links",
        "100 documents",
        "mask personal",
        "200 documents",
        "源0.jsonl",
        "记录",
        "基于以上这段文本，请回答第",
        "1 cluster, 7 documents in all",
        "近重复的文字",
        "版权所有，未经授权不得转载。",
        "珠穆朗玛峰有多高？",
        "web",
        "12.5",
    ):
        assert words in shown, words


def test_every_rule_has_twenty_examples_and_changes_mark_the_difference(tmp_path):
    text = write_report(cleaned().as_dict(), tmp_path / "a.html").read_text(encoding="utf-8")
    rules = [part for part in text.split("<details>") if "documents ·" in part]
    assert [part.count("<article>") for part in rules] == [20, 20, 20]
    changed = next(part for part in rules if "mask personal" in part)
    assert len(re.findall(r"<del>13800138000</del><ins>〈电话〉</ins>", changed)) >= 20
    assert "<del>" not in next(part for part in rules if "menu" in part)


def test_a_cluster_says_which_document_stayed_and_shows_it_first(tmp_path):
    shown = page_of(cleaned(), tmp_path).text.split("Near duplicates")[2]
    assert re.findall(r"this one stayed|dropped for it", shown) == ["this one stayed"] + 3 * ["dropped for it"]
    assert re.search(r"this one stayed\s+近重复的文字，第5种写法", shown)


def test_all_that_the_page_says_is_there_in_chinese_too():
    assert set(_KINDS.values()) | set(LANGUAGES) <= WORDS.keys()
    for english, chinese in (WORDS | RULES).items():
        assert re.search("[\u4e00-\u9fff]", chinese), english
        assert set(re.findall(r"\{\d\}", chinese)) == set(re.findall(r"\{\d\}", english)), english


def test_without_cleaning_nothing_is_said_of_rules(tmp_path):
    shown = page_of(read_only(), tmp_path)
    assert "Common openings" in shown.text
    assert "A random sample" in shown.text
    for words in ("rules dropped", "rules changed", "Near duplicates", "stayed", "Repeated lines", "evaluation texts"):
        assert words not in shown.text


def test_an_empty_survey_makes_a_page(tmp_path):
    assert page_of(Survey(), tmp_path).count("h1") == 1


def test_hostile_texts_stay_texts(tmp_path):
    clean, page = page_of(cleaned(), tmp_path), page_of(hostile(), tmp_path, title=HOSTILE, about={HOSTILE: HOSTILE})
    assert page.count("script") == clean.count("script") == 1
    assert page.count("style") == 1
    assert page.count("img") == 0
    assert not any(name.startswith("on") for _, attrs in page.elements for name in attrs)
    assert page.text.count("alert(1)") > 10
    assert page.text.count("__CARDS__") > 10  # a text is not taken for a place of the template
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u202e\ud800-\udfff]", page.text)
    assert "‹0000›‹001B›[31m\ufffd" in page.text


@pytest.mark.parametrize("make", [cleaned, read_only, hostile])
def test_the_page_asks_for_nothing_from_elsewhere(make, tmp_path):
    page = page_of(make(), tmp_path)
    attributes = {name for _, attrs in page.elements for name in attrs}
    assert not attributes & {"src", "srcset", "data", "action", "formaction", "poster", "background"}
    assert all(attrs["href"].startswith("#") for _, attrs in page.elements if "href" in attrs)
    styles = " ".join(data for tag, data in page.words if tag == "style")
    assert not re.search(r"@import|url\(|https?:", styles)
    policy = next(attrs["content"] for tag, attrs in page.elements if attrs.get("http-equiv"))
    assert policy.startswith("default-src 'none'")


def test_links_of_the_page_lead_to_its_sections(tmp_path):
    page = page_of(cleaned(), tmp_path)
    ids = {attrs["id"] for tag, attrs in page.elements if tag == "section" and "id" in attrs}
    assert {attrs["href"][1:] for tag, attrs in page.elements if tag == "a"} == ids
    assert len(ids) == 9


def test_writing_again_gives_the_same_bytes(tmp_path):
    survey = cleaned().as_dict()
    first = write_report(survey, tmp_path / "a.html").read_bytes()
    again = json.loads(json.dumps(survey))
    assert write_report(again, tmp_path / "b.html").read_bytes() == first


def test_every_kind_of_character_has_a_name():
    assert set(_KINDS) == set(Kind)


def test_many_sources_are_summed_up(tmp_path):
    survey = Survey()
    for n in range(300):
        survey.read(Document("字" * (300 - n), f"文件{n}", "1"))
    shown = page_of(survey, tmp_path).text
    assert "文件99" in shown.split("A random sample")[1].split("Sources")[0] or "200 more" in shown
    assert f"{sum(range(1, 201)):,}" in shown


def test_a_page_that_cannot_be_written_is_a_clear_error(tmp_path):
    (tmp_path / "a.html").mkdir()
    with pytest.raises(OutputError, match=r"a\.html"):
        write_report(read_only().as_dict(), tmp_path / "a.html")


@pytest.mark.parametrize("name", ["report", "report.jsonl", "gone/report.html", ".html", "folder.html"])
def test_a_report_without_a_place_is_refused_before_anything_is_read(name, tmp_path, capsys):
    (tmp_path / "folder.html").mkdir()
    (tmp_path / "a.txt").write_text("一")
    assert cli.main(["stats", str(tmp_path / "a.txt"), "--report", str(tmp_path / name)]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("error: ")
    assert len(said.err.splitlines()) == 1
    assert not said.out


def test_stats_with_a_report_says_the_same_and_where_it_is(tmp_path, capsys):
    (tmp_path / "a.txt").write_text("".join(f"{OPENING}第{n}行\n" for n in range(40)))
    results = []
    for more in ([], ["--report", str(tmp_path / "a.html")]):
        argv = ["stats", str(tmp_path / "a.txt"), "--txt-unit", "line", "--json", *more]
        assert cli.main(argv) == 0
        results.append(json.loads(capsys.readouterr().out.splitlines()[-1]))
    assert results[0].keys() == results[1].keys() >= FIELDS
    assert (results[0].pop("report"), results[1].pop("report")) == (None, str(tmp_path / "a.html"))
    assert results[0] == results[1]
    shown = Page((tmp_path / "a.html").read_text(encoding="utf-8")).text
    assert re.search(rf"{OPENING}\s+40 · 100.00%", shown)


def test_conversations_have_a_report_too(tmp_path, capsys):
    records = [{"question": f"长江有多长？{n}", "answer": "约6300公里。"} for n in range(30)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records))
    assert cli.main(["stats", str(tmp_path / "a.jsonl"), "--report", str(tmp_path / "a.html"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["report"] == str(tmp_path / "a.html")
    page = Page((tmp_path / "a.html").read_text(encoding="utf-8"))
    assert page.count("article") == 30
    assert "长江有多长？7\n\n约6300公里。" in page.text


@pytest.mark.browser
@pytest.mark.parametrize("make", [cleaned, read_only, hostile])
@pytest.mark.parametrize(("width", "scheme"), [(360, "dark"), (1200, "light")])
def test_no_page_is_wider_than_its_window(make, width, scheme, chromium, tmp_path):
    url = write_report(make().as_dict(), tmp_path / "a.html").as_uri()
    page = chromium.new_page(viewport={"width": width, "height": 700}, color_scheme=scheme)
    wrong = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: wrong.append(message.text))
    page.on("dialog", lambda dialog: wrong.append(dialog.message))
    page.goto(url)
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert wrong == []
    page.close()


@pytest.mark.browser
def test_the_sample_is_leafed_through_and_searched(chromium, tmp_path):
    page = chromium.new_page(locale="en-GB")
    page.goto(write_report(cleaned().as_dict(), tmp_path / "a.html").as_uri())

    def shown() -> list[str]:
        return page.locator(".sample article:visible .text").all_inner_texts()

    def count() -> str:
        return page.locator("output").inner_text()

    first = shown()
    assert len(first) == 1
    assert count() == "1 of 200"
    page.keyboard.press("ArrowRight")
    second = shown()
    assert second != first
    page.keyboard.press("k")
    assert shown() == first
    page.get_by_label("next document").click()
    assert shown() == second
    page.keyboard.press("/")
    page.keyboard.type("〈电话〉")
    assert re.fullmatch(r"1 of \d+", count())
    assert page.locator("mark:visible").first.inner_text() == "〈电话〉"
    page.keyboard.press("Escape")
    assert count() == "1 of 200"
    page.get_by_role("button", name="as they came").click()
    page.get_by_label("search in the sample").fill("〈电话〉")
    assert count() == "none holds it"
    assert shown() == []
    page.close()


@pytest.mark.browser
def test_the_page_speaks_the_browsers_language_and_the_other_one(chromium, tmp_path):
    url = write_report(cleaned().as_dict(), tmp_path / "a.html").as_uri()
    for locale, other in (("zh-CN", "English"), ("en-GB", "中文")):
        page = chromium.new_page(locale=locale)
        page.goto(url)
        said = page.locator("main").inner_text()
        assert ("规则删去了什么" in said, "What the rules dropped" in said) == (locale == "zh-CN", locale != "zh-CN")
        page.get_by_role("button", name=other).click()
        assert ("What the rules dropped" in page.locator("main").inner_text()) == (locale == "zh-CN")
        page.get_by_role("button", name="中文" if locale == "zh-CN" else "English").click()
        assert page.locator("main").inner_text() == said
        page.close()
