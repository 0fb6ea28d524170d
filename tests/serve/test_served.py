"""How a folder is asked and drawn from, and the page's policy: without a server."""

import base64
import hashlib
import json
import re

import httpx
import pytest

from danlu.errors import ConfigError
from danlu.infer.sampling import Sampling
from danlu.serve import app
from danlu.serve.forms import as_json
from danlu.serve.served import default_sampling, taught_template
from danlu.tokenizer import Tokenizer


def test_the_folder_says_what_is_drawn_with_or_danlu_does():
    assert default_sampling({}) == Sampling()
    assert default_sampling({"temperature": None, "do_sample": True, "eos_token_id": 3}) == Sampling()
    said = {"temperature": 0.6, "top_p": 0.9, "top_k": 20, "min_p": 0.1, "repetition_penalty": 1.1}
    assert default_sampling(said) == Sampling(0.6, 20, 0.9, 0.1, 1.1)


@pytest.mark.parametrize("bad", [{"temperature": "hot"}, {"top_k": 1.5}, {"top_p": True}, {"temperature": -1}])
def test_what_is_no_sampling_in_the_folder_is_a_mistake(bad):
    with pytest.raises(ConfigError, match=next(iter(bad))):
        default_sampling(bad)


def test_a_model_is_taught_if_it_stops_where_its_template_ends_a_turn(tokenizer):
    end = tokenizer.special_ids["<|im_end|>"]
    assert taught_template(tokenizer, {}) is None
    assert taught_template(tokenizer.ending_with("<|im_end|>"), {}) is not None
    assert taught_template(tokenizer, {"eos_token_id": [0, end]}) is not None
    assert taught_template(tokenizer, {"eos_token_id": end}) is not None
    without = Tokenizer(tokenizer._json_text, {**tokenizer.config, "chat_template": None})
    assert taught_template(without, {"eos_token_id": end}) is None
    endless = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    markless = Tokenizer(tokenizer._json_text, {**tokenizer.config, "chat_template": endless})
    assert taught_template(markless, {"eos_token_id": end}) is None


def test_an_event_is_one_line_for_every_reader():
    text = "a\u2028b\u2029c\u0085d\ne\r\x0b\x1c长江"
    raw = as_json({"text": text})
    assert len(raw.decode().splitlines()) == 1
    assert json.loads(raw)["text"] == text
    assert "长江".encode() in raw


def test_the_page_runs_its_own_scripts_and_no_others(server, tmp_path, monkeypatch):
    page = tmp_path / "page.html"
    monkeypatch.setattr(app, "PAGE", page)
    assert httpx.get(server.url).status_code == 404
    script = "document.title = '丹炉'"
    page.write_text(f"<style>p {{}}</style><script>{script}</script>", encoding="utf-8")
    answer = httpx.get(server.url)
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.text == page.read_text(encoding="utf-8")
    policy = answer.headers["content-security-policy"]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert re.search(r"script-src ([^;]*);", policy)[1] == f"'sha256-{digest}'"
    assert "default-src 'none'" in policy
    assert "connect-src 'self'" in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
