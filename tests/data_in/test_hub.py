"""Sets on a hub: what a name means, where files lie, what is not fetched twice, and which revision was read."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_stub import TOKEN, git_sha1, sha256
from huggingface_hub import constants, hf_hub_download, scan_cache_dir

from danlu import cli
from danlu.data.hub.fetch import fetch
from danlu.data.hub.names import HubName, read_name, size
from danlu.data.sources import Corpus
from danlu.errors import DataError, OutputError

HUBS = ["hf", "modelscope"]


def lines(count: int, start: int = 0) -> bytes:
    return "".join(json.dumps({"text": f"第{n}篇，讲炉火。"}) + "\n" for n in range(start, start + count)).encode()


BIG, SMALL = lines(300), lines(3, 300)


@pytest.mark.parametrize("kind", HUBS)
def test_a_set_is_a_source_like_any_other(hub, kind):
    hub.add("o/n", {"data/a-0.jsonl": BIG, "data/a-1.jsonl": SMALL, "README.md": b"x", "LICENSE.txt": b"x"})
    corpus = Corpus([f"{kind}:o/n"])
    assert [d.text for d in corpus] == [json.loads(line)["text"] for line in (BIG + SMALL).splitlines()]
    assert corpus.bytes_total == corpus.bytes_fetched == len(BIG + SMALL)
    assert [path.name for path in corpus.files] == ["a-0.jsonl", "a-1.jsonl"]


@pytest.mark.parametrize("kind", HUBS)
def test_every_kind_of_file_is_read(hub, tmp_path, kind):
    pq.write_table(pa.table({"text": ["甲"]}), tmp_path / "t.parquet")
    files = {"t.parquet": (tmp_path / "t.parquet").read_bytes(), "b.txt.gz": gzip.compress("乙".encode())}
    hub.add("o/n", files | {"c.jsonl": SMALL, "d.json": b'[{"text": "x"}]', "e.csv": b"text"})
    assert [d.text for d in Corpus([f"{kind}:o/n:*"])][:2] == ["乙", "第300篇，讲炉火。"]
    assert [d.text for d in Corpus([f"{kind}:o/n:t.parquet", f"{kind}:o/n:d.json"])] == ["甲", "x"]


@pytest.mark.parametrize("kind", HUBS)
def test_nothing_is_fetched_twice(hub, kind):
    hub.add("o/n", {"a.jsonl": BIG, "b.jsonl": SMALL})
    assert fetch(f"{kind}:o/n:a.jsonl").bytes_fetched == len(BIG)
    fetch.cache_clear()
    both = fetch(f"{kind}:o/n:*.jsonl")
    assert both.bytes_fetched == len(SMALL)
    assert both.bytes == len(BIG + SMALL)
    hub.seen.clear()
    fetch.cache_clear()
    assert fetch(f"{kind}:o/n:*.jsonl").files == both.files
    assert not [path for path, _ in hub.seen if "resolve" in path or "FilePath" in path or "cdn" in path]
    hub.seen.clear()
    fetch(f"{kind}:o/n:*.jsonl")  # and a second look within one process asks nothing at all
    assert not hub.seen


@pytest.mark.parametrize("kind", HUBS)
def test_a_revision_is_a_branch_a_tag_or_a_commit_and_main_moves(hub, kind):
    old = hub.add("o/n", {"a.jsonl": BIG})
    new = hub.add("o/n", {"a.jsonl": SMALL})
    hub.add("o/n", {"a.jsonl": lines(2)}, revision="v1.0")
    read = {at: Path(fetch(f"{kind}:o/n{at}").files[0]).read_bytes() for at in ("", f"@{old}", f"@{new}", "@v1.0")}
    assert read == {"": SMALL, f"@{old}": BIG, f"@{new}": SMALL, "@v1.0": lines(2)}
    hub.add("o/n", {"a.jsonl": lines(9)})
    fetch.cache_clear()
    assert fetch(f"{kind}:o/n").files[0].read_bytes() == lines(9)
    assert fetch(f"{kind}:o/n@{old}").files[0].read_bytes() == BIG


def test_a_commit_that_lies_in_the_cache_needs_no_hub(hub):
    commit = hub.add("o/n", {"a.jsonl": BIG})
    fetch(f"hf:o/n@{commit}")
    hub.seen.clear()
    fetch.cache_clear()
    assert fetch(f"hf:o/n@{commit}").bytes_fetched == 0
    assert not hub.seen


@pytest.mark.parametrize("kind", HUBS)
def test_the_revision_is_told_and_part_of_the_fingerprint(hub, kind):
    commits = [hub.add("o/n", {"a.jsonl": BIG, "README.md": text}) for text in (b"one", b"two")]
    corpora = [Corpus([f"{kind}:o/n@{commit}"]) for commit in commits]
    assert [c.revisions for c in corpora] == [{f"{kind}:o/n@{c}": f"{kind}:o/n@{c}"} for c in commits]
    assert corpora[0].fingerprint() != corpora[1].fingerprint()
    assert corpora[0].fingerprint() == Corpus([f"{kind}:o/n@{commits[0]}"]).fingerprint()


def test_modelscope_without_a_commit_is_told_by_what_it_lists(hub):
    hub.tells_commit = False
    commit = hub.add("o/n", {"a.jsonl": BIG})
    assert fetch("modelscope:o/n").revision == f"modelscope:o/n@master+{commit[:8]}"


def test_the_shards_manifest_says_which_revision_was_read(hub, tmp_path, tokenizer_folder, capsys):
    commit = hub.add("o/n", {"a.jsonl": BIG})
    argv = ["prepare", "hf:o/n", "--tokenizer", str(tokenizer_folder), "--out", str(tmp_path / "shards"), "--json"]
    assert cli.main(argv) == 0
    manifest = json.loads((tmp_path / "shards" / "manifest.json").read_text())
    assert manifest["revisions"] == {"hf:o/n": f"hf:o/n@{commit}"}
    assert cli.main(argv) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["already_prepared"] is True


def test_conversations_come_from_a_hub_too(hub, capsys):
    hub.add("o/chat", {"a.jsonl": b'{"question": "q", "answer": "a"}\n' * 3})
    assert cli.main(["stats", "hf:o/chat", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["conversations"] == 3


@pytest.mark.parametrize(
    ("glob", "found"),
    [
        ("a.jsonl", ["a.jsonl"]),
        ("*.jsonl", ["a.jsonl", "data/b-0.jsonl", "data/b-1.jsonl"]),
        ("data", ["data/b-0.jsonl", "data/b-1.jsonl"]),
        ("data/", ["data/b-0.jsonl", "data/b-1.jsonl"]),
        ("data/*", ["data/b-0.jsonl", "data/b-1.jsonl"]),
        ("*/b-[1-9].*", ["data/b-1.jsonl"]),
        ("notes.json", ["notes.json"]),
        ("README.txt", ["README.txt"]),
    ],
)
def test_a_glob_picks_files(hub, glob, found):
    names = ["a.jsonl", "data/b-0.jsonl", "data/b-1.jsonl", "notes.json", "README.txt", "data/c.csv"]
    commit = hub.add("o/n", dict.fromkeys(names, SMALL))
    root = Path(constants.HF_HUB_CACHE) / "datasets--o--n" / "snapshots" / commit
    assert [str(path.relative_to(root)) for path in fetch(f"hf:o/n:{glob}").files] == found


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "hf:o/n",
            "holds several sets of files. Add one of them, or :* for all: :a.jsonl (99 bytes), :b-*.jsonl (2 files",
        ),
        ("hf:o/n:*.parquet", "'*.parquet' matches no file. There is :a.jsonl"),
        ("hf:o/n:c.csv", "is of no kind that danlu reads"),
        ("hf:o/none", "holds no file that danlu reads"),
        ("hf:o/n@v9", "has no revision 'v9'. See"),
        ("hf:o/missing", "is no data set there (a model is none), or a private one"),
        ("modelscope:o/missing", "is no data set there (a model is none), or has no revision 'master'"),
        ("modelscope:o/n@v9", "or has no revision 'v9'"),
        ("hf:squad", "is no name of a data set. After hf: comes OWNER/NAME"),
        ("hf:../x", "is no name of a data set"),
        ("hf:o/n@../../x:a", "is no name of a data set"),
        ("modelscope:", "is no name of a data set"),
        ("hf:o/evil:*", "the hub lists a file '../../evil.jsonl', which danlu does not write"),
    ],
)
def test_a_name_that_means_nothing_is_one_line_that_says_what_there_is(hub, capsys, tmp_path, source, message):
    hub.add("o/n", {"a.jsonl": lines(1) + b" " * 48, "b-1.jsonl": SMALL, "b-2.jsonl": SMALL, "c.csv": b"x"})
    hub.add("o/none", {"README.md": b"x"})
    hub.add("o/evil", {"../../evil.jsonl": SMALL})
    assert cli.main(["stats", source]) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[-1].startswith("error: ")
    assert message.replace("99 bytes", size(len(lines(1)) + 48)) in said[-1]
    assert not list(tmp_path.rglob("*.jsonl"))


def test_names_are_taken_apart():
    assert read_name("hf:o/n.x-y@refs/pr/1:data/a:b*.jsonl") == HubName("hf", "o/n.x-y", "refs/pr/1", "data/a:b*.jsonl")
    assert str(read_name("modelscope:o/n@v1:*")) == "modelscope:o/n@v1:*"
    assert [size(n) for n in (0, 999, 1000, 1_669_750_047, 620e9, 5e15)] == [
        "0 bytes",
        "999 bytes",
        "1.0 kB",
        "1.7 GB",
        "620 GB",
        "5000.0 TB",
    ]


@pytest.mark.parametrize("kind", HUBS)
def test_a_gated_set_asks_for_a_token_and_the_terms(hub, monkeypatch, kind):
    hub.add("o/n", {"a.jsonl": BIG}, gated=True)
    variable = {"hf": "HF_TOKEN", "modelscope": "MODELSCOPE_API_TOKEN"}[kind]
    with pytest.raises(DataError, match=rf"accept the terms at {hub.url}/datasets/o/n, if any, and set {variable}"):
        fetch(f"{kind}:o/n")
    monkeypatch.setenv(variable, "wrong")
    with pytest.raises(DataError, match="accept the terms"):
        fetch(f"{kind}:o/n")
    monkeypatch.setenv(variable, TOKEN)
    hub.seen.clear()
    assert fetch(f"{kind}:o/n").bytes_fetched == len(BIG)
    sent = [headers for path, headers in hub.seen if path.startswith("/cdn")]
    assert len(sent) == 1
    assert not {"Authorization", "Cookie"} & set(sent[0])  # the CDN is another host


@pytest.mark.parametrize("kind", HUBS)
def test_offline_reads_the_cache_and_nothing_else(hub, monkeypatch, kind):
    hub.add("o/n", {"a-0.jsonl": BIG, "a-1.jsonl": SMALL})

    def offline(value):
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", value)
        monkeypatch.setenv("MODELSCOPE_OFFLINE", str(int(value)))
        fetch.cache_clear()

    offline(True)
    with pytest.raises(DataError, match="OFFLINE is set, and nothing of it lies in the cache"):
        fetch(f"{kind}:o/n")
    offline(False)
    online = fetch(f"{kind}:o/n:a-0.jsonl")
    offline(True)
    hub.seen.clear()
    assert fetch(f"{kind}:o/n:a-0.jsonl").files == online.files
    with pytest.raises(DataError, match=r"lacks 1 of its 2 files: a-1.jsonl. Fetch them first: danlu fetch"):
        fetch(f"{kind}:o/n")  # the other file is missed, not forgotten
    assert not hub.seen


@pytest.mark.parametrize("kind", HUBS)
def test_without_a_network_the_cache_answers_and_says_so(hub, monkeypatch, capsys, kind):
    commit = hub.add("o/n", {"a.jsonl": BIG})
    fetch(f"{kind}:o/n")
    hub.faults["revision" if kind == "hf" else "tree"] = [("status", 503)] * 5
    fetch.cache_clear()
    assert fetch(f"{kind}:o/n").revision == f"{kind}:o/n@{commit}"
    assert f"Reads {commit} from the cache" in capsys.readouterr().err.replace("\n", "")


def test_the_library_finds_what_danlu_fetched(hub, tmp_path):
    commit = hub.add("o/n", {"data/a.jsonl": BIG, "b.jsonl": SMALL})
    fetched = fetch("hf:o/n:*.jsonl")
    options = {"repo_type": "dataset", "cache_dir": tmp_path / "hf", "local_files_only": True}
    for name, path in zip(("b.jsonl", "data/a.jsonl"), fetched.files, strict=True):
        assert hf_hub_download("o/n", name, **options) == str(path)
        assert hf_hub_download("o/n", name, revision=commit, **options) == str(path)
    report = scan_cache_dir(tmp_path / "hf")
    assert not report.warnings
    assert {r.repo_id: r.size_on_disk for r in report.repos} == {"o/n": len(BIG + SMALL)}
    links = {path.resolve().name for path in fetched.files}
    assert links == {sha256(BIG), git_sha1(SMALL)}


def test_danlu_finds_what_the_library_fetched(hub, tmp_path, monkeypatch):
    hub.add("o/n", {"a.jsonl": BIG, "b.jsonl": SMALL})
    code = "import huggingface_hub as h; h.snapshot_download('o/n', repo_type='dataset')"
    names = {"HF_ENDPOINT": hub.url, "HF_HUB_CACHE": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}
    own = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
    subprocess.run([sys.executable, "-c", code], env=own | names, check=True)
    assert fetch("hf:o/n:*.jsonl").bytes_fetched == 0
    for tree in (tmp_path / "hf").rglob("trees/*.json"):
        tree.unlink()  # as older versions leave it: a cache without a list
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    fetch.cache_clear()
    assert [path.name for path in fetch("hf:o/n:*.jsonl").files] == ["a.jsonl", "b.jsonl"]


def test_modelscopes_library_and_danlu_share_a_cache(hub, tmp_path):
    library = pytest.importorskip("modelscope_hub", exc_type=ImportError)
    hub.add("o/n", {"data/a.jsonl": BIG, "b.jsonl": SMALL})
    api = library.HubApi(endpoint=hub.url)
    fetched = fetch("modelscope:o/n:data/a.jsonl")
    hub.seen.clear()
    got = api.download_file("o/n", "dataset", "data/a.jsonl", cache_dir=tmp_path / "ms")
    assert Path(got) == fetched.files[0]
    assert not [path for path, _ in hub.seen if "FilePath" in path]
    api.download_file("o/n", "dataset", "b.jsonl", cache_dir=tmp_path / "ms")
    assert fetch("modelscope:o/n:b.jsonl").bytes_fetched == 0
    ours = {path.name for path in (tmp_path / "ms" / ".lock").iterdir()}
    assert len(ours) == 2  # one a file: both take the same locks


def test_the_old_layout_of_modelscopes_library_is_read(hub, tmp_path):
    hub.add("o/n.1", {"a.jsonl": BIG})
    old = tmp_path / "ms" / "hub" / "datasets" / "o" / "n___1" / "a.jsonl"
    old.parent.mkdir(parents=True)
    old.write_bytes(BIG)
    assert fetch("modelscope:o/n.1").files == (old,)


def test_a_blob_that_another_revision_brought_is_linked(hub):
    first = hub.add("o/n", {"a.jsonl": BIG})
    second = hub.add("o/n", {"a.jsonl": BIG, "new.md": b"x"})
    assert fetch(f"hf:o/n@{first}").bytes_fetched == len(BIG)
    assert fetch(f"hf:o/n@{second}").bytes_fetched == 0


def test_a_missing_library_is_named_with_the_command_that_installs_it(hub, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert cli.main(["stats", "hf:o/n"]) == 2
    assert 'pip install -e ".[hub]"' in capsys.readouterr().err


def test_a_disk_without_room_is_told_before_anything_is_fetched(hub, tmp_path):
    hub.add("o/n", {"a.jsonl": BIG}, lengths={"a.jsonl": 10**18})
    with pytest.raises(OutputError, match=r"needs 1000000\.0 TB, and the disk has"):
        fetch("hf:o/n")
    assert not [path for path, _ in hub.seen if "resolve" in path]
    assert not list((tmp_path / "hf").rglob("*.incomplete"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_cache_that_may_not_be_written_is_one_line(hub, tmp_path):
    hub.add("o/n", {"a.jsonl": BIG})
    (tmp_path / "hf").mkdir(mode=0o500)
    with pytest.raises(OutputError, match="cannot be written"):
        fetch("hf:o/n")
