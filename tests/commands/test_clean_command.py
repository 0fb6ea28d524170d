"""The command `danlu clean`."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from danlu import cli

sys.path.insert(0, str(Path(__file__).parent.parent / "data_in"))
import soiled

KEYS = [
    "documents",
    "kept",
    "characters",
    "dropped",
    "changed",
    "skipped",
    "resumed",
    "already_cleaned",
    "skipped_files",
    "seconds",
    "report",
    "out",
    "engine",
    "workers",
]


@pytest.fixture
def source(tmp_path):
    return soiled.write(tmp_path / "in.jsonl", soiled.records(60))


def clean(capsys, *argv: object) -> dict:
    assert cli.main(["clean", *map(str, argv), "--workers", "1", "--json"]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def error(capsys, *argv: object) -> str:
    assert cli.main(["clean", *map(str, argv)]) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(said) == 1
    return said[0]


def test_it_prints_one_object_and_makes_a_folder_with_report_and_manifest(source, tmp_path, capsys):
    done = clean(capsys, source, "--out", tmp_path / "out")
    assert list(done) == KEYS
    assert done["documents"] == 60
    assert done["documents"] == done["kept"] + sum(done["dropped"].values())
    assert Path(done["report"]).read_text(encoding="utf-8").startswith("<!")
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["sources"] == [str(source)]
    assert {"part-00000.jsonl.zst", "report.html"} == set(manifest["files"])
    assert clean(capsys, source, "--out", tmp_path / "out")["already_cleaned"]


def test_prepare_reads_what_it_makes(source, tmp_path, capsys, tokenizer_folder):
    done = clean(capsys, source, "--out", tmp_path / "out", "--no-report")
    assert done["report"] is None
    argv = ["prepare", tmp_path / "out", "--tokenizer", tokenizer_folder, "--out", tmp_path / "shards", "--json"]
    assert cli.main(list(map(str, argv))) == 0
    prepared = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (prepared["documents"], prepared["characters"]) == (done["kept"], done["characters"])


def test_thresholds_come_from_recipe_file_and_flags_in_this_order(source, tmp_path, capsys):
    web = clean(capsys, source, "--out", tmp_path / "a")["dropped"]
    books = clean(capsys, source, "--out", tmp_path / "b", "--recipe", "books")["dropped"]
    chat = clean(capsys, source, "--out", tmp_path / "c", "--recipe", "chat")["dropped"]
    assert (web["too_short"], chat.get("too_short", 0)) == (6, 0)
    assert books["too_short"] > 6
    toml = tmp_path / "mine.toml"
    toml.write_text('recipe = "chat"\n[set]\nmin_chars = 20\n[repeats]\nmore_than = 3\n')
    mine = clean(capsys, source, "--out", tmp_path / "d", "--recipe", toml)
    assert mine["dropped"]["too_short"] == 6
    assert mine["changed"]["cut_repeats"] >= 4
    over = clean(capsys, source, "--out", tmp_path / "e", f"--recipe={toml}", "--set.min-chars", "2", "--repeats", "0")
    assert "too_short" not in over["dropped"]
    assert "cut_repeats" not in over["changed"]


def test_near_duplicates_stay_where_asked_for(source, tmp_path, capsys):
    found = clean(capsys, source, "--out", tmp_path / "a")["dropped"]["near_duplicate"]
    assert found >= 4
    assert "near_duplicate" not in clean(capsys, source, "--out", tmp_path / "b", "--no-near")["dropped"]
    assert clean(capsys, source, "--out", tmp_path / "c", "--similarity", "1")["dropped"]["near_duplicate"] < found


def test_documents_that_hold_an_evaluation_text_go_and_the_report_names_it(source, tmp_path, capsys):
    exam = tmp_path / "exam.jsonl"
    exam.write_text(json.dumps({"id": "q-1", "question": soiled.EVALUATION, "A": "李春", "answer": "A"}) + "\n")
    done = clean(capsys, source, "--out", tmp_path / "out", "--against", exam)
    assert done["dropped"]["contaminated"] == 2
    assert soiled.EVALUATION[:20] in Path(done["report"]).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--recipe", "wub"], "--recipe wub: there is none. Known: web, books, chat"),
        (["--similarity", "0.3"], "20 bands of 6 rows look at"),
        (["--set.hann", "0.3"], "Unrecognized options: --set.hann"),
        (["--set.han", "3"], "`set.han`: Input should be less than or equal to 1"),
        (["--workers", "0"], "--workers 0: give 1 or more"),
        (["--repeats", "-1"], "greater than or equal to 1"),
        (["--file-characters", "0"], "greater than or equal to 1"),
        (["--against", "missing.jsonl"], "missing.jsonl: there is no such file"),
        (["--good", "missing.jsonl"], "missing.jsonl: there is no such file"),
        (
            ["--recipe", "nothing.toml"],
            "(No such file or directory). Name a TOML file, or one of web",
        ),
        (["--set.phrases", "nope.txt"], "nope.txt: cannot be read as a list of phrases"),
        (["--set.phrases", "."], "cannot be read as a list of phrases"),
        (["--text-key", "content"], "has no 'content' (it has: id, text, tags, url)"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(source, tmp_path, capsys, flags, said):
    assert said in error(capsys, source, "--out", tmp_path / "out", *flags)
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_a_folder_in_a_source_or_around_one_is_refused(tmp_path, capsys, monkeypatch):
    folder = tmp_path / "in" / "deep"
    folder.mkdir(parents=True)
    source = soiled.write(folder / "in.jsonl", soiled.records(30))
    (tmp_path / "link").symlink_to(tmp_path / "in")
    monkeypatch.chdir(tmp_path)
    for named, out in [
        ("in", "in/out"),
        ("in", "in/deep/out"),
        ("in", "link/out"),
        (tmp_path / "in", "in"),
        ("in/**/*.jsonl", "in/out"),
        ("**/*.jsonl", "out"),
    ]:
        assert f"{out}: lies in the source {named}" in error(capsys, named, "--out", out)
    for named, out in [(source, folder), ("in/deep/*.jsonl", "in"), (source, ".")]:
        assert f"{out}: holds the source" in error(capsys, named, "--out", out)
    assert [path.name for path in (tmp_path / "in").rglob("*")] == ["deep", "in.jsonl"]
    assert clean(capsys, source, "--out", "in/out")["documents"] == 30  # a file alone: its folder is not read


def test_a_place_where_nothing_can_be_made_is_one_line(source, capsys):
    assert "cannot be made" in error(capsys, source, "--out", "/proc/x/y")


def test_records_passed_over_are_counted_aloud(source, tmp_path, capsys):
    with source.open("a") as file:
        file.write("no JSON\n{}\n")
    assert cli.main(["clean", str(source), "--skip-bad", "--out", str(tmp_path / "out")]) == 0
    assert "unreadable and passed over: 2;" in capsys.readouterr().out


def test_files_passed_over_are_named_counted_and_recorded(source, tmp_path, capsys):
    folder = tmp_path / "in"
    folder.mkdir()
    source.rename(folder / "a.jsonl")
    (folder / "b.jsonl").write_bytes(bytes(range(256)))
    argv = ["clean", str(folder), "--skip-bad", "--out"]
    assert cli.main([*argv, str(tmp_path / "out"), "--workers", "1"]) == 0
    said = capsys.readouterr()
    reason = "is binary (or UTF-16), not UTF-8 text"
    assert f"passed over {folder / 'b.jsonl'}: {reason}" in said.err
    assert "unreadable and passed over: 0 records, 1 file;" in said.out
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["skipped_files"] == {str(folder / "b.jsonl"): reason}
    assert reason in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert clean(capsys, folder, "--skip-bad", "--out", tmp_path / "out")["skipped_files"] == 1
    assert clean(capsys, folder, "--skip-bad", "--out", tmp_path / "b", "--set.han", "0.1")["skipped_files"] == 1
    assert "--skip-bad passes over such files" in error(capsys, folder, "--out", tmp_path / "c")


def test_evaluation_texts_too_short_to_be_found_are_counted_aloud(source, tmp_path, capsys):
    exam = tmp_path / "exam.txt"
    exam.write_text(f"首都是哪里？\n中国的首都是哪里？\n{soiled.EVALUATION}\n")
    assert cli.main(["clean", str(source), "--against", str(exam), "--out", str(tmp_path / "out")]) == 0
    assert "note: 1 of 3 evaluation texts are not looked for" in capsys.readouterr().err


def test_a_threshold_outside_its_table_is_told_where_it_belongs(source, tmp_path, capsys):
    (tmp_path / "mine.toml").write_text("han = 0.3\n")
    said = error(capsys, source, "--out", tmp_path / "out", "--recipe", tmp_path / "mine.toml")
    assert "`han` is a threshold. Put it into the table [set]" in said


def test_an_unknown_key_of_a_file_names_the_nearest(source, tmp_path, capsys):
    (tmp_path / "mine.toml").write_text("[set]\nmin_char = 3\n")
    said = error(capsys, source, "--out", tmp_path / "out", "--recipe", tmp_path / "mine.toml")
    assert "unknown key `set.min_char` (did you mean `min_chars`?)" in said


def test_no_worker_imports_torch(source, tmp_path):
    code = (
        "import sys; from danlu.cli import main\n"
        "if __name__ == '__main__':\n"
        "    status = main(sys.argv[1:]); sys.exit(status or 'torch' in sys.modules)"
    )
    argv = ["clean", str(source), "--out", str(tmp_path / "out"), "--workers", "1", "--format", "parquet"]
    assert subprocess.run([sys.executable, "-c", code, *argv], check=False, capture_output=True).returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed (extra [ray])")
@pytest.mark.parametrize("kind", ["jsonl.zst", "parquet"])
def test_a_ray_cluster_of_two_workers_makes_the_same_bytes(tmp_path, kind):
    source = soiled.write(tmp_path / "in.jsonl", soiled.records(200))
    flags = ["--file-characters", "5000", "--format", kind]
    for engine, name in (("local", "a"), ("ray", "b")):
        argv = ["clean", source, "--out", tmp_path / name, "--engine", engine, "--workers", 2, *flags]
        done = subprocess.run(
            [sys.executable, "-m", "danlu", *map(str, argv)], check=False, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "b").iterdir())
    assert f"part-00004.{kind}" in names
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in names)


def test_without_ray_the_engine_is_one_line(source, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    said = error(capsys, source, "--out", tmp_path / "out", "--engine", "ray")
    assert 'pip install -e ".[ray]"' in said
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]
