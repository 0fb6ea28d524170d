"""Known sets: each is a name on a hub with a licence and a page, and a source by its short name."""

import json
import re

import pytest

from danlu import cli
from danlu.data.corpora import corpora
from danlu.data.hub.names import read_name
from danlu.data.sources import _NAMED, Corpus


def test_the_list_is_whole_for_people_and_programs(capsys):
    assert cli.main(["corpora", "--json"]) == 0
    *text, last = capsys.readouterr().out.splitlines()
    entries = json.loads(last)["corpora"]
    assert [entry["name"] for entry in entries] == list(corpora())
    for entry in entries:
        assert {"name", "source", "kind", "what", "size", "licence", "page", "fetch", "use"} <= set(entry)
        assert all(any(entry[key] in line for line in text) for key in ("name", "size", "licence", "source", "use"))


@pytest.mark.parametrize("name", corpora())
def test_every_known_set_is_a_name_on_a_hub(name):
    known = corpora()[name]
    on_hub = read_name(known.source)
    assert on_hub.glob  # each of them holds more than one set of files, or much more than is needed
    assert on_hub.repo in known.page
    assert re.fullmatch(r"[a-z0-9-]+", name)
    assert name not in _NAMED
    assert known.kind in ("text", "conversations", "preferences")


def test_a_known_name_is_a_source(hub):
    data = b'{"text": "x"}\n'
    commit = hub.add("gongjy/minimind_dataset", {"pretrain_hq.jsonl": data, "sft_512.jsonl": b"{}"})
    corpus = Corpus(["minimind-pretrain"])
    assert [document.text for document in corpus] == ["x"]
    assert corpus.revisions == {"minimind-pretrain": f"modelscope:gongjy/minimind_dataset@{commit}"}


def test_fetch_tells_where_files_lie(hub, capsys, tmp_path):
    commit = hub.add("o/n", {"a-1.jsonl": b'{"text": "x"}\n', "a-2.jsonl": b'{"text": "y"}\n'})
    (tmp_path / "local.txt").write_text("z")
    assert cli.main(["fetch", "hf:o/n", str(tmp_path / "local.txt"), "--json"]) == 0
    *paths, last = capsys.readouterr().out.splitlines()
    result = json.loads(last)
    assert result["files"] == paths
    assert [path.rpartition("/")[2] for path in paths] == ["a-1.jsonl", "a-2.jsonl", "local.txt"]
    assert (result["bytes"], result["bytes_fetched"]) == (29, 28)
    assert result["revisions"] == {"hf:o/n": f"hf:o/n@{commit}"}
