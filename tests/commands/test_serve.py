"""`danlu serve` from the command line: it says where it is, ends well, and a mistake is one line."""

import json
import re
import signal
import socket
import subprocess
import sys
import time

import httpx
import openai
import pytest

from danlu.checkpoint import load_model, load_tokenizer, save_checkpoint
from danlu.cli import main
from danlu.commands import serve_
from danlu.infer.generate import generate
from danlu.infer.sampling import Sampling


@pytest.fixture(scope="module")
def folder(tokenizer, random_model, tmp_path_factory):
    path = tmp_path_factory.mktemp("serve") / "小模型"
    save_checkpoint(path, random_model, tokenizer.ending_with("<|im_end|>"))
    return path


class Served:
    """`danlu serve` in a process of its own."""

    def __init__(self, folder, *flags):
        argv = [sys.executable, "-m", "danlu", "serve", str(folder), "--port", "0", "--precision", "fp32", *flags]
        self.process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        self.said = ""
        while not (found := re.search(r"serving (\S+) in fp32 at (http://\S+)", self.said)):
            line = self.process.stderr.readline()
            assert line, self.said
            self.said += line
        self.name, self.url = found[1], found[2]
        self.client = openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=30)
        while True:
            try:
                httpx.get(f"{self.url}/health")
                return
            except httpx.ConnectError:
                time.sleep(0.05)

    def end(self):
        out, err = self.process.communicate(timeout=30)
        return self.process.returncode, out, self.said + err


@pytest.mark.slow
def test_a_signal_finishes_what_runs_and_refuses_the_rest(folder):
    served = Served(folder, "--json", "--slots", "1")
    assert served.name == "小模型"
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    ask = {"model": "小模型", "prompt": "长江", "max_tokens": 100, "temperature": 0}
    streams = [iter(served.client.completions.create(stream=True, logprobs=5, **ask)) for _ in range(20)]
    texts = [next(streams[0]).choices[0].text]
    served.process.send_signal(signal.SIGTERM)
    refusals = 0
    for stream in streams:
        try:
            served.client.completions.create(**ask)
        except openai.InternalServerError as error:
            refusals += (error.status_code, error.code) == (503, "unavailable")
        except openai.APIConnectionError:
            pass  # it has gone already
        texts.append("".join(chunk.choices[0].text for chunk in stream))
    assert refusals
    expected = generate(model, tokenizer, "长江", max_new_tokens=100, sampling=Sampling(temperature=0)).texts[0]
    assert texts[0] + texts[1] == expected
    assert texts[2:] == [expected] * 19
    status, out, err = served.end()
    assert status == 0
    assert "SIGTERM: finishing" in err
    assert "Traceback" not in err
    result = json.loads(out.splitlines()[-1])
    assert result.keys() == {"requests", "prompt_tokens", "completion_tokens", "seconds"}
    assert result["completion_tokens"] == 20 * 100
    assert result["requests"] == 20  # neither what was refused nor what asked for nothing


@pytest.mark.slow
def test_a_second_signal_leaves_at_once(folder):
    served = Served(folder, "--slots", "1")
    ask = {"model": "小模型", "prompt": "长江", "max_tokens": 120, "temperature": 0, "n": 128}
    stream = iter(served.client.completions.create(stream=True, **ask))
    next(stream)
    for _ in range(2):
        served.process.send_signal(signal.SIGINT)
        time.sleep(0.3)
    status, _, err = served.end()
    assert status == 130
    assert err.splitlines()[-1] == "interrupted"
    assert "Traceback" not in err


@pytest.mark.slow
def test_a_key_from_the_environment_and_a_note_where_none_is(folder, monkeypatch):
    monkeypatch.setenv(serve_.KEY_VARIABLE, "s3cret")
    served = Served(folder, "--host", "0.0.0.0", "--name", "danlu/tiny", "--context", "64")
    url = served.url.replace("0.0.0.0", "127.0.0.1")
    assert httpx.get(f"{url}/v1/models").status_code == 401
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="s3cret")
    assert client.models.retrieve("danlu/tiny").max_model_len == 64
    served.process.send_signal(signal.SIGTERM)
    status, _, err = served.end()
    assert status == 0
    assert "note: at" not in err
    monkeypatch.delenv(serve_.KEY_VARIABLE)
    served = Served(folder, "--host", "0.0.0.0")
    served.process.send_signal(signal.SIGTERM)
    status, _, err = served.end()
    assert status == 0
    assert "note: at 0.0.0.0 other machines may use the model" in err


def refused(capsys, *argv):
    assert main(["serve", *map(str, argv)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = [line for line in captured.err.splitlines() if not line.startswith("note: ")]
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    return lines[0]


def test_a_port_in_use_is_a_mistake(folder, capsys):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert f"port {port} of 127.0.0.1 is in use" in refused(capsys, folder, "--port", port)


@pytest.mark.parametrize(
    ("flags", "what"),
    [
        ((), "CKPT is missing"),
        (("missing",), "there is no such folder"),
        (("F", "--host", "no such host"), "cannot be taken"),
        (("F", "--port", "70000"), "between 0 and 65535"),
        (("F", "--slots", "0"), "--slots 0"),
        (("F", "--max-queue", "-1"), "--max-queue -1"),
        (("F", "--timeout", "0"), "--timeout 0"),
        (("F", "--context", "0"), "--context 0"),
        (("F", "--context", "100000"), "--context 100,000: must be at most the model's"),
        (("F", "--name", " "), "--name"),
        (("F", "--allow-origin", "foo"), "--allow-origin"),
        (("F", "--threads", "-1"), "--threads -1"),
        (("F", "--api-key", ""), "--api-key"),
        (("F", "--api-key", "密"), "--api-key"),
    ],
)
def test_a_mistake_is_one_line(folder, capsys, flags, what):
    flags = [str(folder) if flag == "F" else flag for flag in flags]
    assert what in refused(capsys, *flags, *([] if "--port" in flags else ["--port", "0"]))


def test_bad_settings_in_the_folder_are_a_mistake(folder, tokenizer, tmp_path, capsys):
    save_checkpoint(tmp_path / "bad", load_model(folder), tokenizer)
    (tmp_path / "bad" / "generation_config.json").write_text('{"temperature": "hot"}')
    assert "temperature 'hot' is no number" in refused(capsys, tmp_path / "bad", "--port", "0")


def test_what_is_missing_to_serve_is_named(folder, capsys, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("danlu.serve")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "fastapi", None)
    assert "pip install 'danlu[serve]'" in refused(capsys, folder, "--port", "0")
