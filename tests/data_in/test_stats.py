"""Statistics: every figure agrees with a plain computation over the whole list."""

import json
import random
import statistics
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from danlu import cli
from danlu.data import stats as stats_module
from danlu.data.stats import Stats
from danlu.types import Document

HEAD = Path(__file__).parents[1] / "data" / "pretrain_hq_head6.jsonl"


def counted(texts: list[str]) -> Stats:
    stats = Stats()
    stats.add(Document(text, "source", str(n)) for n, text in enumerate(texts))
    return stats


def stats_json(capsys, *argv: str) -> dict:
    assert cli.main(["stats", *argv, "--json"]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_it_says_of_real_lines_what_the_articles_script_says(capsys):
    result = stats_json(capsys, str(HEAD))
    with HEAD.open(encoding="utf-8") as file:
        lengths = [len(line.strip()) for line in file.readlines()]
    texts = [json.loads(line)["text"] for line in HEAD.read_text(encoding="utf-8").splitlines()]
    assert result["lines"] == result["documents"] == 6
    assert result["mean_line_chars"] == statistics.mean(lengths)
    assert result["characters"] == sum(map(len, texts))
    assert result["mean_chars"] == statistics.mean(map(len, texts))
    assert result["percentiles"]["max"] == max(map(len, texts))
    assert result["duplicates"] == {"count": 0, "share": 0}
    assert result["common_openings"][0]["opening"] == "<|im_start|>"  # the wrapper is not stripped: it shows


def test_percentiles_are_exact():
    lengths = random.Random(0).choices(range(1, 3000), k=1234)
    found = counted(["一" * n for n in lengths]).as_dict()["percentiles"]
    for percent in (1, 5, 25, 50, 75, 95, 99):
        assert found[f"p{percent}"] == np.percentile(lengths, percent, method="inverted_cdf")
    assert (found["min"], found["max"]) == (min(lengths), max(lengths))


@pytest.mark.parametrize("lengths", [[7], [1, 2], [3] * 50])
def test_percentiles_of_a_few_documents(lengths):
    found = counted(["一" * n for n in lengths]).as_dict()["percentiles"]
    assert found["p1"] == min(lengths)
    assert found["p99"] == found["max"] == max(lengths)


def test_the_histogram_counts_every_document_once():
    lengths = [1, 2, 3, 4, 5, 8, 9, 1000, 1024, 1025]
    bins = {b["up_to"]: b["documents"] for b in counted(["一" * n for n in lengths]).as_dict()["histogram"]}
    for upper, count in bins.items():
        assert count == sum(upper // 2 < n <= upper for n in lengths)
    assert sum(bins.values()) == len(lengths)


def test_character_classes_agree_with_unicodes_names():
    text = "炼丹炉AbcéＡ 12３\n，。!　㐀𠀀字x9"
    shares = counted([text]).as_dict()["character_classes"]

    def kind(c: str) -> str:
        name = unicodedata.name(c, "")
        if name.startswith("CJK UNIFIED"):
            return "han"
        if "LATIN" in name:
            return "latin"
        return "digit" if c.isdigit() else "space" if c.isspace() else "other"

    for name, share in shares.items():
        assert share == pytest.approx(sum(kind(c) == name for c in text) / len(text))


def test_duplicates_and_openings_are_counted():
    texts = ["客服您好，请问有什么可以帮您" + str(n % 7) for n in range(30)] + ["别的"]
    result = counted(texts).as_dict()
    assert result["duplicates"] == {"count": 23, "share": 23 / 31}
    assert result["common_openings"] == [{"opening": "客服您好，请问有什么可以", "count": 30}]


def test_openings_stay_bounded_and_a_common_one_is_still_found(monkeypatch):
    monkeypatch.setattr(stats_module, "_OPENINGS_HELD", 100)
    stats = counted(["常见的开头" if n % 10 == 0 else str(n) for n in range(5000)])
    assert len(stats.openings) <= 101
    assert stats.openings.common() == [{"opening": "常见的开头", "count": 500}]


def test_text_that_cannot_be_printed_is_no_traceback(tmp_path, capsys):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "\\ud800\\u001b[31m"}\n' * 2, encoding="utf-8")
    assert cli.main(["stats", str(path), "--json"]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert json.loads(out.splitlines()[-1])["duplicates"]["count"] == 1


def test_skipped_records_are_shown(tmp_path, capsys):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "一"}\n{\n', encoding="utf-8")
    assert stats_json(capsys, str(path), "--skip-bad")["skipped"] == 1


def test_the_page_shows_every_figure_and_a_histogram(capsys):
    assert cli.main(["stats", "demo"]) == 0
    said = capsys.readouterr()
    for word in ("documents", "characters", "lines", "exact duplicates", "p50", "han", "█", "first 12"):
        assert word in said.out
    assert "reading" in said.err


@pytest.mark.parametrize("verb", [["stats"], ["prepare"], ["tokenizer", "train"]])
def test_help_says_that_copies_may_differ_in_white_space(verb, capsys):
    with pytest.raises(SystemExit):
        cli.main([*verb, "--help"])
    assert "white space" in " ".join(capsys.readouterr().out.replace("│", " ").split())


def test_sources_without_lines_count_those_of_their_texts(tmp_path, capsys):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"text": ["一二\n三 ", "四"]}), tmp_path / "a.parquet")
    result = stats_json(capsys, str(tmp_path / "a.parquet"))
    assert (result["lines"], result["mean_line_chars"]) == (3, 4 / 3)


@pytest.mark.parametrize("flags", [["--txt-unit", "page"], ["--nonsense"], ["--text-key"]])
def test_a_wrong_option_is_one_line_and_status_2(flags, capsys):
    assert cli.main(["stats", str(HEAD), *flags]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("error: ")
    assert len(said.err.splitlines()) == 1
    assert not said.out
