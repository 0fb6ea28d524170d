"""Sources: every kind of file gives the same documents; every bad one gives one line and status 2."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from danlu import cli
from danlu.data.sources import Corpus
from danlu.errors import DataError

HEAD = Path(__file__).parents[1] / "data" / "pretrain_hq_head6.jsonl"
TEXTS = ["第一篇", "第二篇\n有两行", "third 篇"]
JSONL = "".join(json.dumps({"text": text, "n": n}) + "\n" for n, text in enumerate(TEXTS)).encode()


def zst(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)


def parquet(path: Path, **columns) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def texts(*specs, **options) -> list[str]:
    return [document.text for document in Corpus([str(spec) for spec in specs], **options)]


@pytest.fixture
def write(tmp_path):
    def write(name: str, data: bytes | str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.encode() if isinstance(data, str) else data)
        return path

    return write


def test_every_kind_of_file_gives_the_same_documents(tmp_path, write):
    plain = write("a.jsonl", JSONL)
    packed = [write("a.jsonl.gz", gzip.compress(JSONL)), write("a.jsonl.zst", zst(JSONL))]
    table = parquet(tmp_path / "a.parquet", text=TEXTS, n=[0, 1, 2])
    for path in (plain, *packed, table):
        documents = list(Corpus([str(path)]))
        assert [d.text for d in documents] == TEXTS
        assert [d.meta for d in documents] == [{"n": 0}, {"n": 1}, {"n": 2}]
        assert {d.source for d in documents} == {str(path)}


@pytest.mark.parametrize(("suffix", "pack"), [(".gz", gzip.compress), (".zst", zst)])
def test_several_compressed_members_are_one_file(write, suffix, pack):
    halves = JSONL.split(b"\n", 1)
    assert texts(write(f"a.jsonl{suffix}", pack(halves[0] + b"\n") + pack(halves[1]))) == TEXTS


@pytest.mark.parametrize("name", ["n.txt", "n.txt.gz", "n.txt.zst"])
def test_a_txt_is_a_document_a_file_a_line_or_what_blank_lines_part(write, name):
    pack = {".gz": gzip.compress, ".zst": zst}.get(Path(name).suffix, bytes)
    path = write(name, pack("\n一\r\n二\n\n \n三\n".encode()))
    assert texts(path) == ["一\r\n二\n\n \n三"]
    assert texts(path, txt_unit="line") == ["一", "二", "三"]
    assert texts(path, txt_unit="blank") == ["一\r\n二", "三"]
    assert [d.id for d in Corpus([str(path)], txt_unit="blank")] == ["2", "6"]


def test_folders_globs_and_several_sources_are_sorted_and_no_file_is_read_twice(tmp_path, write, monkeypatch):
    for name in ("b.txt", "a.txt", "deep/er/c.txt", "notes.md"):
        write(f"in/{name}", name)
    assert texts(tmp_path / "in") == ["a.txt", "b.txt", "deep/er/c.txt"]
    assert texts(tmp_path / "in" / "*.txt") == ["a.txt", "b.txt"]
    assert texts(f"{tmp_path}/in/**/*.txt") == ["a.txt", "b.txt", "deep/er/c.txt"]
    assert texts(tmp_path / "in" / "b.txt", tmp_path / "in") == ["b.txt", "a.txt", "deep/er/c.txt"]
    monkeypatch.chdir(tmp_path)
    assert texts("in/[ab].txt") == ["a.txt", "b.txt"]


def test_a_name_with_glob_characters_is_a_file_first(write):
    assert texts(write("a[1].txt", "x")) == ["x"]


def test_a_byte_order_mark_is_no_text(write):
    assert texts(write("a.jsonl", b"\xef\xbb\xbf" + JSONL)) == TEXTS
    assert texts(write("a.txt", b"\xef\xbb\xbf" + "文".encode())) == ["文"]


def test_a_large_line_is_one_document(write):
    text = "炉" * 3_000_000
    assert texts(write("a.jsonl", json.dumps({"text": text}))) == [text]


def test_another_key_holds_the_text(write, tmp_path):
    assert texts(write("a.jsonl", '{"body": "正文", "id": 7}'), text_key="body") == ["正文"]
    assert texts(parquet(tmp_path / "a.parquet", body=["正文"]), text_key="body") == ["正文"]


def test_skip_bad_counts_and_goes_on(tmp_path, write):
    bad = [
        b"{",
        b'{"txt": "x"}',
        b'{"text": 1}',
        b'{"text": null}',
        b"[]",
        b'"s"',
        b"\xff\xfe{",
        b"[" * 100_000,
    ]
    lines = [json.dumps({"text": text}).encode() for text in TEXTS]
    path = write("a.jsonl", b"\n".join([lines[0], *bad, lines[1], b"", lines[2]]))
    corpus = Corpus([str(path), str(write("empty.jsonl", b""))], skip_bad=True)
    for _ in range(2):  # and counts anew each time
        assert [d.text for d in corpus] == TEXTS
        assert corpus.skipped == len(bad)
        assert list(corpus.skipped_files) == [str(tmp_path / "empty.jsonl")]


@pytest.mark.parametrize("encoding", ["GB18030", "BIG5"])
@pytest.mark.parametrize("name", ["novel.txt", "novel.jsonl"])
def test_skip_bad_names_a_file_in_another_encoding_and_takes_no_line_of_it(write, name, encoding, capsys):
    """Not as so many bad lines; but one such line in a file of UTF-8 is a bad line."""
    said = (
        "Chapter 1\n我們的國家，他們的時代。\nThe end of it\n"
        if name.endswith("txt")
        else '{"text": "我們的國家。"}\n' * 3
    )
    other = write(name, said.encode(encoding))
    mixed = write("mixed.txt", "好的\n".encode() + "我們的國家\n".encode(encoding) + "完了\n".encode())
    corpus = Corpus([str(other), str(mixed)], skip_bad=True)
    assert [d.text for d in corpus] == ["好的\n完了"]
    assert corpus.skipped == 1
    assert list(corpus.skipped_files) == [str(other)]
    assert f"iconv -f {encoding}" in corpus.skipped_files[str(other)]
    assert f"iconv -f {encoding}" in capsys.readouterr().err


WHOLE_FILE = [
    "empty.jsonl", "binary.jsonl", "binary.txt", "binary.txt.gz", "utf16.txt", "plain.jsonl.gz", "plain.txt.zst",
    "packed.jsonl", "packed.txt", "other.jsonl.gz", "table.jsonl", "head.txt.zst", "text.parquet", "cut.parquet",
]  # fmt: skip


def test_skip_bad_passes_over_whole_files_and_says_which_and_why(tmp_path, write, capsys):
    good = write("in/0.jsonl", JSONL)
    write("in/z.txt", "末篇")
    wrong = {name: (data, said) for name, data, said in WRONG}
    paths = [write(f"in/{name}", wrong[name][0]) for name in WHOLE_FILE]
    with pytest.raises(DataError, match="--skip-bad passes over such files"):
        texts(tmp_path / "in")
    with pytest.raises(DataError, match=r"is empty$"):
        texts(paths[0])
    corpus = Corpus([str(tmp_path / "in")], skip_bad=True)
    capsys.readouterr()
    assert [d.text for d in corpus] == [*TEXTS, "末篇"]
    assert (corpus.skipped, set(corpus.skipped_files)) == (0, set(map(str, paths)))
    for name, path in zip(WHOLE_FILE, paths, strict=True):
        assert wrong[name][1] in corpus.skipped_files[str(path)]
    said = capsys.readouterr().err.splitlines()
    named = [f"passed over {path}: {reason}" for path, reason in corpus.skipped_files.items()]
    assert said == [*named[:5], f"passed over {len(paths) - 5} more files that cannot be read"]
    assert [d.text for d in corpus] == [*TEXTS, "末篇"]
    with pytest.raises(DataError, match=r"holds no document .unreadable and passed over: 0 records, 1 file.$"):
        texts(paths[0], skip_bad=True)
    assert good.read_bytes() == JSONL


def test_what_a_cut_file_still_holds_stays(tmp_path, write):
    lines = b"".join(b'{"text": "%s"}\n' % os.urandom(99).hex().encode() for _ in range(3_000))
    whole = [json.loads(line)["text"] for line in lines.splitlines()]
    for name, packed in (("a.jsonl.gz", gzip.compress(lines)), ("a.jsonl.zst", zst(lines))):
        corpus = Corpus([str(write(name, packed[: len(packed) // 2])), str(write("b.txt", "后"))], skip_bad=True)
        *found, last = [document.text for document in corpus]
        assert 1_000 < len(found) < 2_000
        assert found == whole[: len(found)]
        assert last == "后"
        reason = corpus.skipped_files[str(tmp_path / name)]
        assert "broken or cut short" in reason
        assert f"(after {len(found):,} documents, which stay)" in reason


def test_a_file_without_permission_is_passed_over_and_changes_the_fingerprint(tmp_path, write, monkeypatch):
    write("a.jsonl", JSONL)
    secret = write("b.jsonl", JSONL)
    before = Corpus([str(tmp_path)], skip_bad=True).fingerprint()
    opening = Path.open

    def refuse(path, *args, **rest):  # root may read everything
        if path == secret:
            raise PermissionError(13, "Permission denied")
        return opening(path, *args, **rest)

    monkeypatch.setattr(Path, "open", refuse)
    corpus = Corpus([str(tmp_path)], skip_bad=True)
    assert corpus.fingerprint() != before
    assert [d.text for d in corpus] == TEXTS
    assert corpus.skipped_files == {str(secret): "cannot be read (Permission denied)"}
    with pytest.raises(DataError, match="Permission denied"):
        Corpus([str(tmp_path)]).fingerprint()


@pytest.mark.parametrize("module", ["pyarrow", "zstandard"])
def test_a_missing_package_or_text_key_is_no_bad_file(tmp_path, write, monkeypatch, module):
    write("a.jsonl", JSONL)
    table = parquet(tmp_path / "t.parquet", body=["x"])
    with pytest.raises(DataError, match="has no 'text'"):
        texts(tmp_path, skip_bad=True)
    table.unlink()
    write("b.parquet" if module == "pyarrow" else "b.jsonl.zst", b"PAR1" if module == "pyarrow" else zst(JSONL))
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(DataError, match="one more package"):
        texts(tmp_path, skip_bad=True)


def test_times_beyond_the_microsecond_and_beyond_python_are_read_or_named(tmp_path, write):
    when = pa.array([1_600_000_000_123_456_789, None], pa.timestamp("ns", "UTC"))
    path = parquet(tmp_path / "a.parquet", text=["一", "二"], when=when)
    first, second = [document.meta["when"] for document in Corpus([str(path)])]
    assert (first.isoformat(), second) == ("2020-09-13T12:26:40.123456+00:00", None)
    late = parquet(tmp_path / "b.parquet", text=["三"], when=pa.array([10**15], pa.timestamp("s")))
    with pytest.raises(DataError, match=r"b\.parquet: holds values that cannot be read"):
        texts(late)
    write("c.txt", "末")
    assert texts(tmp_path, skip_bad=True) == ["一", "二", "末"]


def test_lines_are_counted_as_the_article_counts_them():
    corpus = Corpus([str(HEAD)])
    assert len(list(corpus)) == 6
    lines = HEAD.read_text(encoding="utf-8").split("\n")[:-1]  # the article: readlines(), len(line.strip())
    assert corpus.lines == 6
    assert corpus.line_characters == sum(len(line.strip()) for line in lines)


def test_progress_ends_at_the_size_of_the_files(tmp_path, write, capsys):
    write("a.jsonl", JSONL * 500)
    write("b.jsonl.gz", gzip.compress(JSONL))
    parquet(tmp_path / "c.parquet", text=TEXTS)
    corpus = Corpus([str(tmp_path)])
    assert corpus.bytes_total == sum(p.stat().st_size for p in tmp_path.iterdir())
    seen = [corpus.bytes_read for _ in corpus]
    assert seen == sorted(seen)
    assert corpus.bytes_read == corpus.bytes_total
    assert len(list(corpus.track("reading"))) == len(seen)
    said = capsys.readouterr()
    assert "reading" in said.err
    assert not said.out


def test_the_fingerprint_is_of_contents_and_options_not_of_names(tmp_path, write):
    one, copy = write("one.jsonl", JSONL), write("copy.jsonl", JSONL)
    other, as_txt = write("other.jsonl", JSONL + b"\n"), write("one.txt", JSONL)
    base = Corpus([str(one)]).fingerprint()
    assert Corpus([str(copy)]).fingerprint() == base
    different = [
        Corpus([str(other)]),
        Corpus([str(as_txt)]),
        Corpus([str(one), str(copy)]),
        Corpus([str(one)], text_key="n"),
        Corpus([str(one)], txt_unit="line"),
        Corpus([str(one)], skip_bad=True),
    ]
    assert len({base, *(corpus.fingerprint() for corpus in different)}) == len(different) + 1
    os.utime(one, (1, 1))
    assert Corpus([str(one)]).fingerprint() == base


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.txt", "a.parquet"])
@pytest.mark.parametrize("skip_bad", [False, True])
def test_a_file_that_shrinks_while_read_is_an_error(tmp_path, write, name, skip_bad):
    many = [os.urandom(64).hex() for _ in range(5000)]
    data = b"".join(json.dumps({"text": text}).encode() + b"\n" for text in many)
    if name == "a.parquet":
        path = tmp_path / name
        pq.write_table(pa.table({"text": many}), path, row_group_size=100)
    else:
        path = write(name, gzip.compress(data) if name.endswith("gz") else data)
    stream = iter(Corpus([str(path)], txt_unit="line", skip_bad=skip_bad))
    next(stream)
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(DataError, match="changed while it was read"):
        list(stream)


def test_a_file_that_grows_or_changes_while_read_is_an_error(write):
    path = write("a.jsonl", JSONL)
    stream = iter(Corpus([str(path)]))
    next(stream)
    with path.open("ab") as file:
        file.write(JSONL)
    with pytest.raises(DataError, match="changed while it was read"):
        list(stream)


def test_a_file_that_goes_away_is_an_error(write):
    path = write("a.jsonl", JSONL)
    corpus = Corpus([str(path)])
    path.unlink()
    for read in (corpus.fingerprint, lambda: list(corpus)):
        with pytest.raises(DataError, match="cannot be read"):
            read()


RANDOM = bytes(range(256)) * 40
GZ, ZST = (
    gzip.compress(JSONL * 2000),
    zst(b"".join(os.urandom(40).hex().encode() + b"\n" for _ in range(9999))),
)
WRONG = [
    ("empty.jsonl", b"", "is empty"),
    ("blank.jsonl", b"\n \n", "holds no document"),
    ("blank.txt", b"\n \n", "holds no document"),
    ("binary.jsonl", RANDOM, "is binary"),
    ("binary.txt", RANDOM, "is binary"),
    ("binary.txt.gz", gzip.compress(RANDOM), "is binary"),
    ("late.txt", b"x\n" * 99_999 + b"\0\n", "line 100000: is binary"),
    ("utf16.txt", "A字".encode("utf-16"), "is binary (or UTF-16)"),
    ("gb.txt", "中文".encode("gb18030"), "line 1: is no UTF-8"),
    ("cut.txt", "中文".encode()[:-1], "line 1: is no UTF-8"),
    ("long.txt", "他说这是不对的。".encode("gb18030"), "seems to be GB18030. Convert it: iconv -f GB18030 -t UTF-8"),
    ("tw.txt", "他說這是不對的。".encode("big5"), "seems to be BIG5. Convert it: iconv -f BIG5 -t UTF-8"),
    ("wide.txt", "他说这是".encode("utf-16"), "seems to be UTF-16. Convert it"),
    ("noise.txt", bytes(range(128, 256)), "line 1: is no UTF-8"),
    ("a.json", '[{"text": "我们的"}]'.encode("gb18030"), "a.json: is no UTF-8 but seems to be GB18030"),
    ("bad.jsonl", b'{"text": "a"}\n\n{"text": \n', "bad.jsonl, line 3: is no JSON"),
    ("deep.jsonl", b"[" * 100_000, "line 1: is no JSON"),
    ("digits.jsonl", b"9" * 9_999, "line 1: is no JSON"),
    ("key.jsonl", b'{"txt": "a", "id": 1}', "line 1: has no 'text' (it has: txt, id)"),
    ("none.jsonl", b"{}", "has no 'text' (it has: nothing)"),
    ("list.jsonl", b"[1]", "line 1: is no JSON object"),
    ("number.jsonl", b'{"text": 3}', "its 'text' is no string (int)"),
    ("plain.jsonl.gz", JSONL, "holds no compressed data"),
    ("plain.txt.zst", JSONL, "holds no compressed data"),
    ("packed.jsonl", GZ, "holds .gz data"),
    ("packed.txt", ZST, "holds .zst data"),
    ("other.jsonl.gz", ZST, "holds .zst data"),
    ("table.jsonl", b"PAR1PAR1", "holds .parquet data"),
    ("cut.jsonl.gz", GZ[:-20], "broken or cut short"),
    ("flip.jsonl.gz", GZ[:50] + b"\xff\xff\xff" + GZ[53:], "broken or cut short"),
    ("cut.txt.zst", ZST[:-9], "broken or cut short"),
    ("head.txt.zst", ZST[:6], "broken or cut short"),
    ("tail.txt.zst", ZST + b"tail of another kind", "broken or cut short"),
    ("text.parquet", b"no table", "is no parquet file"),
    ("cut.parquet", b"PAR1" + bytes(99) + b"PAR1", "is no parquet file"),
    ("array.json", b"[]", "holds no document"),
]


@pytest.mark.parametrize(("name", "data", "message"), WRONG, ids=[name for name, _, _ in WRONG])
def test_a_bad_file_is_one_line_and_status_2(write, capsys, name, data, message):
    path = write(name, data)
    assert cli.main(["stats", str(path), "--txt-unit", "line"]) == 2
    assert_one_line(capsys, message)


def test_a_bad_source_is_one_line_and_status_2(tmp_path, write, capsys):
    write("folder/notes.md", "x")
    table = parquet(tmp_path / "t.parquet", body=["x"])
    numbers = parquet(tmp_path / "n.parquet", text=[1])
    for sources, message in [
        ([], "no source is named"),
        ([""], "there is no such file or folder"),
        ([str(tmp_path / "missing.jsonl")], "there is no such file or folder"),
        ([str(tmp_path / "no*.jsonl")], "matches no file"),
        ([str(tmp_path / "folder")], "holds no file that danlu reads"),
        (["x" * 5000], "cannot be looked up"),
        (["hf:name"], "is no name of a data set. After hf: comes OWNER/NAME"),
        (["modelscope:owner/name:"], "is no name of a data set. After modelscope: comes OWNER/NAME"),
        ([str(table)], "has no 'text' (it has: body)"),
        ([str(numbers)], "row 1: its 'text' is no string"),
    ]:
        assert cli.main(["stats", *sources]) == 2
        assert_one_line(capsys, message)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_an_error(write, capsys):
    path = write("a.jsonl", JSONL)
    path.chmod(0)
    assert cli.main(["stats", str(path)]) == 2
    assert_one_line(capsys, "cannot be read")


@pytest.mark.parametrize(("module", "name"), [("pyarrow", "a.parquet"), ("zstandard", "a.jsonl.zst")])
def test_a_missing_package_is_named_with_the_command_that_installs_it(write, capsys, monkeypatch, module, name):
    path = write(name, zst(JSONL) if name.endswith("zst") else b"PAR1")
    monkeypatch.setitem(sys.modules, module, None)  # what Python itself does to block an import
    assert cli.main(["stats", str(path)]) == 2
    assert_one_line(capsys, 'pip install -e ".[data]"')


def assert_one_line(capsys, message: str) -> None:
    said = capsys.readouterr()
    last = [line for line in said.err.splitlines() if line.strip()][-1]
    assert last.startswith("error: ")
    assert message in last
    assert "Traceback" not in said.err
    assert not said.out


FLAT = """
import resource, sys
from pathlib import Path
from danlu.data.sources import Corpus
count = sum(1 for _ in Corpus([sys.argv[1]]))
status = Path("/proc/self/status")
if status.exists():  # Linux hands ru_maxrss on from the process that started this one
    peak = next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM"))
else:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
print(count, peak * 1024)
"""


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["", ".gz", ".zst", ".parquet"])
def test_memory_stays_flat_over_200_megabytes(tmp_path, suffix):
    text = "炉火纯青" * 400
    count = 200_000_000 // len(text.encode())
    path = tmp_path / f"big.jsonl{suffix}" if suffix != ".parquet" else tmp_path / "big.parquet"
    if suffix == ".parquet":
        column = [f"{n} {text}" for n in range(count)]
        pq.write_table(pa.table({"text": column}), path, compression="none", use_dictionary=False)
    else:
        opener = {"": open, ".gz": gzip.open, ".zst": zstandard.open}[suffix]
        with opener(path, "wt", encoding="utf-8") as file:
            for n in range(count):
                file.write(json.dumps({"text": f"{n} {text}"}, ensure_ascii=False) + "\n")
    said = subprocess.run([sys.executable, "-c", FLAT, str(path)], capture_output=True, text=True, check=True)
    documents, peak = map(int, said.stdout.split())
    assert documents == count
    assert peak < 150e6


def test_a_json_array_is_read_where_it_is_named(tmp_path):
    (tmp_path / "a.json").write_text('[{"text": "一"}, {"text": "二\\n三", "id": "x"}]', encoding="utf-8")
    (tmp_path / "b.jsonl").write_text('{"text": "四"}\n', encoding="utf-8")
    corpus = Corpus([str(tmp_path / "a.json")])
    assert [(d.text, d.id) for d in corpus] == [("一", "1"), ("二\n三", "x")]
    assert [d.text for d in Corpus([str(tmp_path)])] == ["四"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"text": "一"}', "is no JSON array of records"),
        ('[{"text": "一"}', "is no JSON"),
        ('["一"]', "record 1: is no JSON object"),
    ],
)
def test_a_json_file_of_something_else_is_one_line(tmp_path, text, message):
    (tmp_path / "a.json").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        list(Corpus([str(tmp_path / "a.json")]))
