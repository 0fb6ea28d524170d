"""`danlu chat` from the command line: one question, a pipe, a terminal; a mistake is one line."""

import io
import json
import os
import pty
import subprocess
import sys
import time

import pytest

from danlu.checkpoint import load_model, load_tokenizer, save_checkpoint
from danlu.cli import main
from danlu.commands import chat_
from danlu.data.chat import Message
from danlu.data.template import ChatTemplate
from danlu.infer.generate import generate
from danlu.infer.sampling import Sampling
from danlu.infer.talk import Talk
from danlu.tokenizer import Tokenizer

FLAGS = ["--max-new-tokens", "6", "--temperature", "0"]


@pytest.fixture(scope="module")
def folder(tokenizer, random_model, tmp_path_factory):
    """As fine-tuning leaves it: the end of a turn is eos."""
    path = tmp_path_factory.mktemp("chat") / "tuned"
    save_checkpoint(path, random_model, tokenizer.ending_with("<|im_end|>"))
    return path


@pytest.fixture(scope="module")
def session_of(folder):
    model, template = load_model(folder), ChatTemplate(load_tokenizer(folder))
    return lambda: chat_.Session(Talk(model, template, max_new_tokens=6, sampling=Sampling(temperature=0.0)))


def piped(monkeypatch, data: bytes):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


def answer_to(folder, *turns):
    """What the engine answers greedily."""
    roles = ("user", "assistant") * len(turns)
    tokenizer = load_tokenizer(folder)
    ids = ChatTemplate(tokenizer).prompt(list(map(Message, roles, turns)))
    done = generate(load_model(folder), tokenizer, ids, sampling=Sampling(temperature=0.0), max_new_tokens=6)
    return done.texts[0]


def refused(capsys, *argv):
    assert main(["chat", *map(str, argv)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    return captured.err


# One question


def test_one_question_is_answered_and_that_is_all(folder, capsys):
    expected = answer_to(folder, "长江")
    assert main(["chat", str(folder), "--ask", "长江", *FLAGS]) == 0
    assert capsys.readouterr().out == expected + "\n"
    assert main(["chat", str(folder), "--ask", "长江", *FLAGS, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result.keys() == {"question", "answer", "stopped", "tokens", "seconds", "tokens_per_second"}
    assert (result["question"], result["answer"]) == ("长江", expected)
    assert (result["stopped"], result["tokens"]) == ("length", 6)


def test_a_model_that_was_not_taught_to_answer_is_pointed_out(folder, tokenizer, tmp_path, capsys):
    save_checkpoint(tmp_path / "base", load_model(folder), tokenizer)
    assert main(["chat", str(tmp_path / "base"), "--ask", "长江", *FLAGS]) == 0
    assert "was not taught to answer: danlu finetune" in capsys.readouterr().err


def test_without_a_template_it_says_what_to_do(folder, tokenizer, tmp_path, capsys):
    config = {k: v for k, v in tokenizer.config.items() if k != "chat_template"}
    save_checkpoint(tmp_path / "plain", load_model(folder), Tokenizer((folder / "tokenizer.json").read_text(), config))
    line = refused(capsys, tmp_path / "plain", "--ask", "长江")
    assert "has no chat_template" in line
    assert "danlu finetune" in line
    assert "danlu generate" in line


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (["--ask", " "], "--ask: is empty"),
        (["--ask", "长\udcce"], "--ask, character 2: byte 0xce is no UTF-8"),
        (["--system", "长\udcce"], "--system, character 2"),
        (["--ask", "山" * 200], "the question has"),
        (["--top-p", "0"], "top_p"),
        (["--nonsense"], "nonsense"),
    ],
)
def test_wrong_flags_are_one_line(folder, flags, word, capsys):
    assert word in refused(capsys, folder, *flags)


def test_a_missing_checkpoint_is_one_line(tmp_path, capsys):
    assert "CKPT" in refused(capsys)
    assert "there is no such folder" in refused(capsys, tmp_path / "none")


# A pipe


def test_lines_of_a_pipe_are_the_questions_of_one_talk(folder, monkeypatch, capsys):
    first = answer_to(folder, "长江")
    second = answer_to(folder, "长江", first, "北京")
    piped(monkeypatch, "\ufeff长江\n\n北京\n/reset\n长江\n/exit\n小熊\n".encode())
    assert main(["chat", str(folder), *FLAGS, "--json"]) == 0
    *answers, last = capsys.readouterr().out.split("\n")[:-1]
    assert "\n".join(answers) == "\n".join([first, second, first])
    assert [turn["question"] for turn in json.loads(last)["turns"]] == ["长江", "北京", "长江"]
    assert [turn["answer"] for turn in json.loads(last)["turns"]] == [first, second, first]


def test_a_question_that_is_too_long_is_one_line_and_the_next_is_answered(folder, monkeypatch, capsys):
    piped(monkeypatch, ("山" * 200 + "\n长江\n").encode())
    assert main(["chat", str(folder), *FLAGS]) == 2
    captured = capsys.readouterr()
    assert captured.out == answer_to(folder, "长江") + "\n"
    assert captured.err.startswith("error: the question has")


def test_a_line_that_is_no_utf8_is_one_line(folder, monkeypatch, capsys):
    piped(monkeypatch, "长江\n".encode() + "北京\n".encode("gbk"))
    assert main(["chat", str(folder), *FLAGS]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: stdin, line 2: is no UTF-8")


# Commands


def test_the_system_message_is_set_and_taken_away(session_of, capsys):
    session = session_of()
    assert session.take("/system  你是老师 ")
    assert session.talk.system == "你是老师"
    assert session.take("/system")
    assert session.talk.system == ""
    assert session.done == []
    assert "[system message: 你是老师]" in capsys.readouterr().err


def test_commands_are_obeyed_and_unknown_ones_named(session_of, capsys):
    session = session_of()
    assert session.take("长江")
    assert session.talk.turns
    assert session.take("/reset")
    assert session.talk.turns == []
    assert session.take("/help")
    assert session.take("/dance")
    assert not session.take("/exit")
    said = capsys.readouterr().err
    assert "/system TEXT  set the system message" in said
    assert "error: /dance: is no command. Known: /reset" in said


def test_a_line_of_another_encoding_is_refused_and_the_talk_goes_on(session_of, capsys):
    session = session_of()
    for line in ("长\udcce", "/system 长\udcce"):
        assert session.take(line)
    assert (session.refused, session.done, session.talk.system) == (2, [], "")
    assert "error: the line, character 2: byte 0xce is no UTF-8" in capsys.readouterr().err


def test_what_only_looks_like_a_command_is_asked(session_of, capsys):
    session = session_of()
    assert session.take("/etc是什么？")
    assert [turn["question"] for turn in session.done] == ["/etc是什么？"]
    assert "[cut at --max-new-tokens]" in capsys.readouterr().err


def test_in_a_terminal_an_interrupt_stops_the_answer_and_at_the_prompt_the_talk(session_of, monkeypatch, capsys):
    session, typed = session_of(), iter(["长江", "北京", KeyboardInterrupt()])
    ask = session.talk.ask

    def interrupted_once(question, on_text):
        def stop(piece):
            on_text(piece)
            raise KeyboardInterrupt

        return ask(question, stop if question == "长江" else on_text)

    def read(_):
        line = next(typed)
        if isinstance(line, BaseException):
            raise line
        return line

    monkeypatch.setattr(session.talk, "ask", interrupted_once)
    monkeypatch.setattr("builtins.input", read)
    chat_._talk_in_terminal(session)
    assert [turn["question"] for turn in session.done] == ["北京"]
    assert [m.content for m in session.talk.turns[::2]] == ["长江", "北京"]
    assert capsys.readouterr().out.startswith(f"{session.talk.turns[1].content}\n")


@pytest.mark.slow
def test_a_real_terminal_shows_a_prompt_answers_and_leaves_at_the_end_of_input(folder):
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "danlu", "chat", str(folder), *FLAGS]
    plain = {**os.environ, "TERM": "dumb"}
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=plain) as run:
        os.close(theirs)
        shown = b""
        for awaited, typed in ((b"> ", "长江\n".encode()), (b"> ", b"\x04")):
            until = time.monotonic() + 60
            while not shown.endswith(awaited):
                assert time.monotonic() < until
                shown += os.read(ours, 1024)
            os.write(ours, typed)
            shown += b"|"
        assert run.wait(60) == 0
    os.close(ours)
    assert answer_to(folder, "长江").replace("\n", "\r\n").encode() in shown
