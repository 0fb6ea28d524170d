"""Cleaning end to end: what stays, in which bytes, whoever does the work and however it is interrupted."""

import contextlib
import itertools
import json
import multiprocessing
import os
import random
import re
import signal
import time
from collections import Counter
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soiled

from danlu.data.cleaning.against import evaluation_texts
from danlu.data.cleaning.compare import file_starts
from danlu.data.cleaning.engines import Local
from danlu.data.cleaning.run import clean_corpus
from danlu.data.cleaning.settings import CleanSettings
from danlu.data.cleaning.sift import cut
from danlu.data.contamination import Contamination
from danlu.data.repeats import Repeats
from danlu.data.rules.recipes import recipe
from danlu.data.sources import Corpus
from danlu.errors import DanluError, DataError, OutputError
from danlu.types import Document, Drop

PART = 3_000
SETTINGS = CleanSettings(repeats=Repeats(more_than=5), file_characters=5_000, format="jsonl")


@pytest.fixture(scope="module")
def rows():
    return soiled.records()


@pytest.fixture
def source(rows, tmp_path):
    return soiled.write(tmp_path / "in.jsonl", rows)


def clean(source: Path, out: Path, settings: CleanSettings = SETTINGS, workers: int = 1, **rest) -> dict:
    given = {"part_characters": PART, "against": [soiled.EVALUATION], **rest}
    return clean_corpus(Corpus([str(source)]), settings, out, Local(workers), **given)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def records_in(folder: Path) -> list[dict]:
    parts = sorted(folder.glob("part-*.jsonl"))
    return [json.loads(line) for path in parts for line in path.read_text(encoding="utf-8").splitlines()]


def expected(rows: list[dict]) -> tuple[dict[str, str], Counter]:
    """Clean in memory with sets and counters: text by id, and drops by reason."""
    rules = [*recipe("web"), Contamination.of([soiled.EVALUATION])]
    kept, dropped = dict[str, str](), Counter()
    for row in rows:
        answer = Document(row["text"], "", row["id"])
        for rule in rules:
            answer = rule(answer)
            if isinstance(answer, Drop):
                dropped[answer.reason] += 1
                break
        else:
            kept[row["id"]] = answer.text
    seen, grams = set(), list[set]()
    for name, text in list(kept.items()):
        bare = "".join(text.split())
        mine = {bare[i : i + 5] for i in range(len(bare) - 4)}
        copy = bare in seen
        near = any(len(mine & other) / len(mine | other) >= 0.8 for other in grams)
        if copy or near:
            dropped["duplicate" if copy else "near_duplicate"] += 1
            del kept[name]
        else:
            grams.append(mine)
        seen.add(bare)
    counts = Counter(p for text in kept.values() for p in set(passages(text)))
    for name, text in kept.items():
        for passage, count in counts.items():
            if count > SETTINGS.repeats.more_than and passage in text:
                text = re.sub(rf"\n?{re.escape(passage)}", "", text)
        kept[name] = text
    return kept, dropped


def passages(text: str) -> list[str]:
    return [s for line in text.split("\n") for s in {line, *re.findall("[^。！]+[。！]?", line)} if len(s) >= 20]


def test_what_stays_is_what_sets_and_counters_in_memory_say(rows, source, tmp_path):
    done = clean(source, tmp_path / "out")
    kept, dropped = expected(rows)
    found = records_in(tmp_path / "out")
    assert {row["id"]: row["text"] for row in found} == kept
    assert done["dropped"] == dict(dropped)
    assert min(dropped[r] for r in ("duplicate", "near_duplicate", "too_short", "not_chinese", "contaminated")) >= 5
    assert (done["documents"], done["kept"]) == (len(rows), len(kept))
    assert done["characters"] == sum(map(len, kept.values()))
    assert done["changed"]["cut_repeats"] == sum(soiled.FOOTER in row["text"] for row in rows if row["id"] in kept)
    assert [row["id"] for row in found] == [row["id"] for row in rows if row["id"] in kept]


def test_records_keep_their_other_fields_and_the_key_of_their_text(rows, tmp_path):
    renamed = [{"content" if k == "text" else k: v for k, v in row.items()} for row in rows]
    source = soiled.write(tmp_path / "in.jsonl", renamed)
    settings = SETTINGS.model_copy(update={"text_key": "content"})
    clean_corpus(Corpus([str(source)], "content"), settings, tmp_path / "out", Local(1))
    before = {row["id"]: row for row in rows}
    found = records_in(tmp_path / "out")
    assert found
    assert {key for row in found for key in row} == {"id", "content", "tags", "url", "masked"}
    for row in found:
        assert (row["tags"], row["url"]) == (before[row["id"]]["tags"], before[row["id"]]["url"])
        assert row.get("masked") in (None, {"phone": 1})


@pytest.mark.parametrize(
    ("workers", "part_characters"),
    [(1, 700), (1, 10**9), *(pytest.param(*pair, marks=pytest.mark.slow) for pair in ((1, 1), (3, PART)))],
)
def test_workers_and_parts_change_no_byte(source, tmp_path, workers, part_characters):
    settings = SETTINGS.model_copy(update={"format": "jsonl.zst"})
    clean(source, tmp_path / "a", settings)
    done = clean(source, tmp_path / "b", settings, workers, part_characters=part_characters)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert {"report.html", "manifest.json", "part-00003.jsonl.zst"} <= set(contents(tmp_path / "b"))
    assert done["resumed"] == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "in.jsonl"]


def test_parts_are_small_at_first_and_grow_to_the_largest_allowed():
    text = "字" * 1_000
    documents = [Document(text, "", str(number)) for number in range(30_000)]
    parts = [[document.id for document in part.documents] for part in cut(documents)]
    assert [name for part in parts for name in part] == [document.id for document in documents]
    sizes = [1_000 * len(part) for part in parts]
    assert sizes[:4] == [132_000] * 4
    for number, size in enumerate(sizes):
        assert size <= max(132_000, sum(sizes[:number]) // 4 + 1_000)
    assert max(sizes) == 4_195_000
    assert len(sizes) < 30
    assert all(len(part.documents) == 3 for part in cut(documents[:9], 2_500))


class Ahead(Local):
    """Takes ten parts before it works on the first."""

    def map(self, function, items):
        items = iter(items)
        while taken := list(itertools.islice(items, 10)):
            yield from map(function, taken)


def test_the_bar_counts_what_is_done_not_what_is_read(rows, tmp_path, monkeypatch):
    source = soiled.write(tmp_path / "in.jsonl", rows * 10)
    total, shown = source.stat().st_size, []

    class Bar:
        def add_task(self, *_, **__):
            return 0

        def advance(self, _):
            pass

        def update(self, _, completed, note=""):
            done = [
                json.loads(path.read_text())["documents"] for path in tmp_path.glob(".out.clean/sifted/*/ledger.json")
            ]
            shown.append((completed, sum(done)))

    monkeypatch.setattr("danlu.log.progress", lambda unit="": contextlib.nullcontext(Bar()))
    settings = SETTINGS.model_copy(update={"near": None, "repeats": None})
    clean_corpus(Corpus([str(source)]), settings, tmp_path / "out", Ahead(1), part_characters=PART)
    ends = list(itertools.accumulate(len(line) for line in source.read_bytes().splitlines(keepends=True)))
    assert len(shown) > 100
    assert [completed for completed, _ in shown] == sorted(completed for completed, _ in shown)
    assert all(completed <= ends[documents - 1] + (1 << 14) for completed, documents in shown[:-1])
    assert shown[-1] == (total, len(rows) * 10)


def test_a_file_holds_at_most_so_many_characters_or_one_document(source, tmp_path):
    clean(source, tmp_path / "out")
    sizes = [
        [len(json.loads(line)["text"]) for line in path.read_text(encoding="utf-8").splitlines()]
        for path in sorted((tmp_path / "out").glob("part-*"))
    ]
    assert all(sum(file) <= SETTINGS.file_characters for file in sizes)
    assert all(sum(file) + max(map(max, sizes)) > SETTINGS.file_characters - 500 for file in sizes[:-1])
    rng = random.Random(3)
    for _ in range(100):
        characters, most = [rng.choice([0, 0, 3, 9, 40]) for _ in range(rng.randint(0, 30))], rng.randint(1, 30)
        starts = file_starts(pa.array(characters, pa.int64()).to_numpy(), most).tolist()
        assert (starts[0], starts[-1]) == (0, len(characters))
        files = [characters[a:b] for a, b in itertools.pairwise(starts)]
        assert all(sum(file) <= most or sum(map(bool, file)) == 1 for file in files)
        assert all(sum(file) + next(filter(None, later), most) > most for file, later in itertools.pairwise(files))


def test_what_is_unlike_good_text_goes(tmp_path):
    """The same characters in another order are as Chinese as before to every other rule."""
    rng = random.Random(1)
    rows = [{"id": f"n-{number}", "text": soiled.good(rng)} for number in range(60)]
    for row in rows[::6]:
        characters = row["text"].replace("\n", "")[:-1]
        row["text"] = "".join(rng.sample(characters, len(characters))) + "。"
    source = soiled.write(tmp_path / "in.jsonl", rows)
    good = soiled.write(tmp_path / "good.jsonl", [{"text": soiled.good(rng) + "\x00"} for _ in range(300)])
    settings = CleanSettings(near=None, repeats=None, format="jsonl")
    made = clean(source, tmp_path / "a", settings, good=Corpus([str(good)]))
    lost = {row["id"] for row in rows} - {row["id"] for row in records_in(tmp_path / "a")}
    assert made["dropped"] == {"perplexity": len(lost)}
    assert {f"n-{i}" for i in range(0, 60, 6)} <= lost
    assert len(lost) <= 12  # the limit is what 99 % of good texts stay below
    for number, workers in enumerate((1, 2)):
        clean(source, tmp_path / f"b{number}", settings, workers, good=Corpus([str(good)]), part_characters=500)
        assert contents(tmp_path / f"b{number}") == contents(tmp_path / "a")
    with pytest.raises(OutputError, match="exists already"):
        clean(source, tmp_path / "a", settings)  # another run: without good text


def test_the_same_command_again_finds_it_done_and_another_refuses(source, tmp_path):
    first = clean(source, tmp_path / "out")
    before = contents(tmp_path / "out")
    again = clean(source, tmp_path / "out")
    assert (first.pop("already_cleaned"), again.pop("already_cleaned")) == (False, True)
    assert {k: v for k, v in again.items() if k != "files"} == first
    with pytest.raises(OutputError, match="exists already"):
        clean(source, tmp_path / "out", SETTINGS.model_copy(update={"near": None}))
    with source.open("a") as file:
        file.write('{"text": "又来了一篇。"}\n')
    with pytest.raises(OutputError, match="exists already"):
        clean(source, tmp_path / "out")
    assert contents(tmp_path / "out") == before


def test_a_corpus_all_dropped_names_the_rule_that_took_most(tmp_path):
    rows = [{"text": "短"}] * 5 + [{"text": "This is nothing but English, all of it, from the start on."}] * 3
    source = soiled.write(tmp_path / "in.jsonl", rows)
    with pytest.raises(DataError, match=r"of 8 documents none is left; `too_short` took most, 5"):
        clean(source, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_a_corpus_of_nothing_but_repeated_passages_is_all_dropped_too(tmp_path):
    passages = [
        "村口的老槐树下坐着三个下棋的老人，他们谁也没有抬头看我。",
        "河水在月光下静静地流着，没有人知道它从哪里来。",
    ]
    heads = [f"第{number}天的{what}，" for number in range(2) for what in ("早晨", "中午", "夜里", "雨天")]
    rows = [{"text": f"{head}\n{passages[0]}\n{passages[1]}{head * 2}{head}"} for head in heads]
    source = soiled.write(tmp_path / "in.jsonl", rows)
    settings = SETTINGS.model_copy(update={"near": None, "repeats": Repeats(more_than=3)})
    with pytest.raises(DataError, match=r"none is left; `repeated_passages` took most"):
        clean(source, tmp_path / "out", settings)
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_lone_surrogates_and_strange_fields_survive(rows, tmp_path):
    strange = {"note": "a\ud800b", "deep": [{"\udfff": None}], "number": 10**30, "u2028": "a\u2028b"}
    many = [{**row, **strange, "text": row["text"] + "\ud83d。"} for row in rows]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in many))
    clean(tmp_path / "in.jsonl", tmp_path / "out", against=["这道题的\ud800答案是什么，请你想一想再来回答我吧。"])
    found = records_in(tmp_path / "out")
    assert found
    assert all({key: row[key] for key in strange} == strange for row in found)
    assert "�" not in "".join(row["text"] for row in found)
    again = list(Corpus([str(tmp_path / "out")]))
    assert [document.text for document in again] == [row["text"] for row in found]


def test_parquet_in_and_out_keeps_columns_that_not_every_record_has(rows, tmp_path):
    for number, row in enumerate(rows):
        row = row | {"score": number / 7, "when": pa.scalar(number, pa.timestamp("s")).as_py(), "rare": None}
        rows = [*rows[:number], row, *rows[number + 1 :]]
    rows[-5]["rare"] = "seldom"
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "in.parquet")
    clean(tmp_path / "in.parquet", tmp_path / "out", SETTINGS.model_copy(update={"format": "parquet"}))
    clean(tmp_path / "in.parquet", tmp_path / "lines")
    parts = sorted((tmp_path / "out").glob("*.parquet"))
    tables = [pq.read_table(part) for part in parts]
    assert len(parts) > 3
    assert {table.schema for table in tables} == {tables[0].schema}
    found = [row for table in tables for row in table.to_pylist()]
    lines = records_in(tmp_path / "lines")
    assert [{k: v for k, v in row.items() if v is not None and k != "when"} for row in found] == [
        {k: v for k, v in row.items() if v is not None and k != "when"} for row in lines
    ]
    assert (found[0]["when"].isoformat(), lines[0]["when"]) == ("1970-01-01T00:00:00", "1970-01-01T00:00:00")
    assert [document.text for document in Corpus([str(tmp_path / "out")])] == [row["text"] for row in found]


def every_type(rows: list[dict]) -> pa.Table:
    """Return the rows as a table with a column of each kind of type, every seventh value missing."""
    numbers = [None if number % 7 == 0 else number for number in range(len(rows))]

    def column(make, kind) -> pa.Array:
        return pa.array([None if number is None else make(number) for number in numbers], kind)

    nested = pa.list_(pa.struct([("when", pa.timestamp("us")), ("bytes", pa.binary())]))
    columns = {
        "id": pa.array([row["id"] for row in rows], pa.large_string()),
        "text": pa.array([row["text"] for row in rows]),
        "int32": column(int, pa.int32()),
        "uint8": column(lambda n: n % 256, pa.uint8()),
        "float32": column(lambda n: n / 8, pa.float32()),
        "stamp": column(lambda n: n * 10**6 + n, pa.timestamp("us", "Asia/Shanghai")),
        "nanoseconds": column(lambda n: n * 1_000_000_000, pa.timestamp("ns")),
        "day": column(int, pa.date32()),
        "clock": column(int, pa.time32("s")),
        "span": column(lambda n: n * 90_000, pa.duration("s")),
        "money": column(lambda n: Decimal(n) / 100, pa.decimal128(10, 2)),
        "bytes": column(lambda n: bytes([n % 256, 255]), pa.binary()),
        "map": column(lambda n: [("a", n)], pa.map_(pa.string(), pa.int16())),
        "nested": column(lambda n: [{"when": n, "bytes": b"\xff"}], nested),
        "kind": column(lambda n: f"k{n % 3}", pa.string()).dictionary_encode(),
    }
    fields = [pa.field(name, array.type, nullable=name != "id") for name, array in columns.items()]
    return pa.table(list(columns.values()), schema=pa.schema(fields))


def test_columns_of_parquet_sources_keep_their_types_values_and_nulls(rows, tmp_path):
    table = every_type(rows)
    pq.write_table(table.slice(0, 90), tmp_path / "a.parquet")
    pq.write_table(table.slice(90), tmp_path / "b.parquet")
    settings = SETTINGS.model_copy(update={"format": "parquet"})
    for workers, part in ((1, PART), (2, 700)):
        sources = [str(tmp_path / f"{name}.parquet") for name in "ab"]
        out = tmp_path / f"out{workers}"
        clean_corpus(Corpus(sources), settings, out, Local(workers), part_characters=part)
    assert contents(tmp_path / "out1") == contents(tmp_path / "out2")
    found = pa.concat_tables(pq.read_table(path) for path in sorted((tmp_path / "out1").glob("*.parquet")))
    assert found.schema.names == [*table.schema.names, "masked"]
    assert found.drop_columns("masked").schema.equals(pq.read_schema(tmp_path / "a.parquet"))
    names = set(found.column("id").to_pylist())
    expected = table.filter(pa.array([name in names for name in table.column("id").to_pylist()]))
    assert 50 < len(found) == len(expected)
    for name in table.schema.names:
        if name != "text":
            assert found.column(name).to_pylist() == expected.column(name).to_pylist(), name


def test_columns_of_several_sources_take_the_type_that_holds_both(rows, tmp_path):
    half, folder = len(rows) // 2, tmp_path / "in"
    folder.mkdir()
    for name, chosen, number in (("a", rows[:half], pa.int16()), ("b", rows[half:], pa.int32())):
        columns = {key: pa.array([row[key] for row in chosen]) for key in ("id", "text")}
        columns["n"] = pa.array(range(len(chosen)), number)
        columns |= {"only": pa.array([b"\x00"] * len(chosen), pa.binary())} if name == "b" else {}
        fields = [pa.field(key, array.type, nullable=False) for key, array in columns.items()]
        pq.write_table(pa.table(list(columns.values()), schema=pa.schema(fields)), folder / f"{name}.parquet")
    clean(folder, tmp_path / "out", SETTINGS.model_copy(update={"format": "parquet"}))
    schema = pq.read_schema(tmp_path / "out" / "part-00000.parquet")
    assert (schema.field("n").type, schema.field("n").nullable) == (pa.int32(), False)
    assert (schema.field("only").type, schema.field("only").nullable) == (pa.binary(), True)


def test_columns_that_no_type_holds_are_one_line_before_anything_is_sifted(rows, tmp_path, monkeypatch):
    folder = tmp_path / "in"
    folder.mkdir()
    pq.write_table(pa.table({"text": [row["text"] for row in rows], "n": range(len(rows))}), folder / "a.parquet")
    pq.write_table(pa.table({"text": ["乙"], "n": [b"two"]}), folder / "b.parquet")
    monkeypatch.setattr("danlu.data.cleaning.run.Sift", None)  # which a run that sifts would call
    with pytest.raises(DataError, match=r"column 'n' is int64 in .*a.parquet and binary in .*b.parquet. Write"):
        clean(folder, tmp_path / "out", SETTINGS.model_copy(update={"format": "parquet"}))
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize("values", [(1, "one"), ([1], {"a": 1}), ({}, {}), (2**70, 1)])
def test_fields_that_make_no_column_are_one_line(rows, tmp_path, values):
    made = [{**row, "field": values[number > 100]} for number, row in enumerate(rows)]
    source = soiled.write(tmp_path / "in.jsonl", made)
    with pytest.raises(DataError, match=r"values that make no column.*Write --format jsonl.zst"):
        clean(source, tmp_path / "out", SETTINGS.model_copy(update={"format": "parquet"}))
    assert not (tmp_path / "out").exists()


def bad(kind: str, rows: list[dict]) -> bytes:
    """Return a corpus with something wrong at its end."""
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    extra = '{"id": "more", "text": "这一行是用国标编码写成的，所以读它的人要先转换。"}'
    return {
        "cut": lines[:-20],
        "cut in a character": lines[:-60],
        "gb18030": lines + extra.encode("gb18030") + b"\n",
        "no text": lines + b'{"id": 7, "content": "x"}\n',
        "no string": lines + b'{"id": 7, "text": 5}\n',
        "no object": lines + b"[]\n",
    }[kind]


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("cut", "line 200: is no JSON"),
        ("cut in a character", "line 200: is no UTF-8: it ends in the middle of a character, so the file is cut short"),
        ("gb18030", "line 201: is no UTF-8 but seems to be GB18030. Convert it: iconv -f GB18030 -t UTF-8"),
        ("no text", "line 201: has no 'text' \\(it has: id, content\\). Name one with --text-key"),
        ("no string", "line 201: its 'text' is no string \\(int\\)"),
        ("no object", "line 201: is no JSON object"),
    ],
)
def test_a_bad_record_is_one_line_and_can_be_passed_over(rows, tmp_path, kind, said):
    source = tmp_path / "in.jsonl"
    source.write_bytes(bad(kind, rows))
    with pytest.raises(DataError, match=said):
        clean(source, tmp_path / "out", part_characters=10**9)
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]
    done = clean_corpus(Corpus([str(source)], skip_bad=True), SETTINGS, tmp_path / "out", Local(1))
    assert done["skipped"] == 1
    assert done["documents"] == len(rows) - kind.startswith("cut")


def test_evaluation_texts_are_the_strings_of_records_and_the_lines_of_txt(tmp_path):
    turns = [{"role": "user", "content": "第一问"}, {"role": "assistant", "content": "第一答"}]
    soiled.write(
        tmp_path / "a.jsonl", [{"id": "q", "question": "问题", "choices": ["甲", "乙"], "n": 3}, {"talk": turns}]
    )
    (tmp_path / "b.txt").write_text("一行\n\n又一行\n一行\n")
    texts = evaluation_texts([str(tmp_path / "a.jsonl"), str(tmp_path / "b.txt")])
    assert texts == ["问题\n甲\n乙", "第一问\n第一答", "一行", "又一行"]


def fail(number: int) -> int:
    if number == 5:
        raise DataError("five")
    return number * number


def die_elsewhere(number: int) -> int:
    """Be slow in this process, until another one is up, and die there."""
    if multiprocessing.parent_process() is not None:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.01)
    return number


def test_engines_keep_the_order_take_few_at_once_and_hand_on_errors():
    taken: list[int] = []

    def items(numbers):
        for number in numbers:
            taken.append(number)
            yield number

    results = Local(2).map(fail, items(range(10, 40)))
    assert next(results) == 100
    assert len(taken) <= 5
    assert list(results) == [number * number for number in range(11, 40)]
    with pytest.raises(DataError, match="five"):
        list(Local(2).map(fail, range(10)))
    with pytest.raises(DanluError, match=r"a worker was killed.*it goes on where it was"):
        list(Local(2).map(die_elsewhere, range(6_000)))
    assert list(Local(2).map(die_elsewhere, range(2))) == [0, 1]  # for so few none is started
