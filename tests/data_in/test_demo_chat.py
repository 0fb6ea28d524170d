"""The demo's conversations: every question of an installed package's file with its answer, checked by its hash."""

import importlib.metadata
import re
import shutil
import sys

import pytest

from danlu.cli import main
from danlu.data import demo_chat
from danlu.data.chat import Conversation, Conversations, Message
from danlu.data.sources import Corpus
from danlu.errors import DataError


@pytest.fixture(scope="module")
def conversations():
    return list(Conversations(Corpus(["demo-chat"], text_key=None)))


def test_every_line_with_a_question_is_one_conversation_of_two_turns(conversations):
    (path,) = demo_chat.files()
    lines = path.read_bytes().decode("utf-8-sig").split("\r\n")
    pairs = [re.fullmatch(r"\s*(.+?)\s*===\s*(.+?)\s*", line) for line in lines]
    expected = [(Message("user", pair[1]), Message("assistant", pair[2])) for pair in pairs if pair]
    assert len(conversations) == 5_043
    assert [c.messages for c in conversations] == expected


def test_ids_and_source_are_stable(conversations):
    first = Message("user", "你是谁"), Message("assistant", "我是 door-Core，一个完全离线运行的本地智能助手。")
    assert conversations[0] == Conversation(first, "demo-chat", "qa-1")
    assert len({c.id for c in conversations}) == 5_043
    assert {c.source for c in conversations} == {"demo-chat"}


def test_an_answer_that_holds_the_mark_itself_is_whole(conversations):
    marked = [c.messages[1].content for c in conversations if "===" in c.messages[1].content]
    assert len(marked) == 6
    assert '一行一条笑话，别带"问题===答案"，保存后问"讲个笑话"随机读。' in marked


def test_as_text_it_is_question_and_answer(tmp_path, tokenizer_folder, capsys):
    documents = list(Corpus(["demo-chat"]))
    assert documents[0].text == "你是谁\n我是 door-Core，一个完全离线运行的本地智能助手。"
    argv = ["prepare", "demo-chat", "--tokenizer", str(tokenizer_folder), "--out", str(tmp_path / "shards")]
    assert main(argv) == 0
    assert "5,043 documents" in capsys.readouterr().out


def test_its_fingerprint_is_not_that_of_its_file():
    assert Corpus(["demo-chat"]).fingerprint() != Corpus([str(demo_chat.files()[0])]).fingerprint()


def test_the_package_itself_is_never_imported(conversations):
    assert conversations
    assert "doorcore" not in sys.modules


def test_a_missing_package_is_one_line_with_the_command_that_installs_it(monkeypatch, capsys):
    main(["stats", "missing.txt"])  # imports what stats needs while it still can be found
    capsys.readouterr()
    monkeypatch.setattr(sys, "path", [path for path in sys.path if "site-packages" not in path])
    assert main(["stats", "demo-chat"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        'error: demo-chat: its text comes with a package that is missing: pip install -e ".[demo]"'
    ]


def test_an_altered_file_is_refused(tmp_path, monkeypatch):
    name = "doorcore/data/corpus/知识库.txt"
    target = tmp_path / name
    target.parent.mkdir(parents=True)
    shutil.copy(str(importlib.metadata.distribution("doorcore").locate_file(name)), target)
    info = tmp_path / "doorcore-0.2.3.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: doorcore\nVersion: 0.2.3\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert demo_chat.files() == [target]
    target.write_text("你好===再见\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"知识库\.txt: is not the file of doorcore 0\.2\.3"):
        demo_chat.files()
