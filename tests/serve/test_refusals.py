"""Whatever is wrong with a request, the client is told so in OpenAI's shape, and the server goes on."""

import json
import socket

import httpx
import openai
import pytest

from danlu.serve import gate

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
HELLO = [{"role": "user", "content": "长江"}]
JSON = {"content-type": "application/json"}


def refused(response, status, code=None, param=None):
    """Check an error's shape, and return its message."""
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["message"]
    assert error["type"] in ("invalid_request_error", "authentication_error", "rate_limit_error", "server_error")
    if code is not None:
        assert error["code"] == code
    if param is not None:
        assert error["param"] == param
    return error["message"]


@pytest.fixture(autouse=True)
def goes_on(server):
    yield
    done = httpx.post(f"{server.url}{TEXT}", json={"prompt": "长江", "max_tokens": 2})
    assert done.status_code == 200
    assert server.idle()


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"messages": []}, "messages"),
        ({}, "messages"),
        ({"messages": "长江"}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, None),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages"),
        ({"messages": [{"role": "assistant", "content": "", "tool_calls": [{}]}]}, "messages"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": 0.0001}, None),
        ({"top_p": 0}, "top_p"),
        ({"top_k": 1.5}, "top_k"),
        ({"n": 1000}, "n"),
        ({"n": 0}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"stop": "停" * 10_000}, "stop"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"stop": ""}, "stop"),
        ({"stop": [1]}, "stop"),
        ({"seed": 2**80}, "seed"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"presence_penalty": 3}, "presence_penalty"),
    ],
)
def test_a_chat_request_that_makes_no_sense(server, body, param):
    base = {} if not body or "messages" in body else {"messages": HELLO}
    content = json.dumps({**base, **body})
    refused(httpx.post(f"{server.url}{CHAT}", content=content, headers=JSON), 400, param=param)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"prompt": []},
        {"prompt": None},
        {"prompt": [[]]},
        {"prompt": [1.5]},
        {"prompt": [-1]},
        {"prompt": [10**6]},
        {"prompt": [["长江"]]},
        {"prompt": ["长江"] * 129},
        {"prompt": ["长江"] * 65, "n": 2},
        {"prompt": "长江", "logprobs": True},
        {"prompt": "长江", "max_tokens": -1},
    ],
)
def test_a_completion_request_that_makes_no_sense(server, body):
    refused(httpx.post(f"{server.url}{TEXT}", json=body), 400)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tools", [{"type": "function"}]),
        ("tool_choice", "required"),
        ("functions", [{}]),
        ("response_format", {"type": "json_object"}),
        ("logit_bias", {"5": 1}),
        ("suffix", "。"),
        ("best_of", 2),
        ("modalities", ["text", "audio"]),
        ("reasoning_effort", "high"),
        ("guided_regex", "a+"),
    ],
)
def test_what_would_change_the_answer_is_not_ignored(server, name, value):
    for path, ask in ((CHAT, {"messages": HELLO}), (TEXT, {"prompt": "长江"})):
        refused(httpx.post(f"{server.url}{path}", json={**ask, name: value}), 400, "unsupported_parameter", name)


@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_a_misspelt_setting_is_no_default_in_silence(server, path):
    asked = {"messages": HELLO} if path == CHAT else {"prompt": "长江"}
    response = httpx.post(f"{server.url}{path}", json=asked | {"temprature": 0})
    assert "Did you mean temperature?" in refused(response, 400, "unknown_parameter", "temprature")


def test_another_model(server):
    for path, ask in ((CHAT, {"messages": HELLO}), (TEXT, {"prompt": "长江"})):
        refused(httpx.post(f"{server.url}{path}", json={**ask, "model": "gpt-4"}), 404, "model_not_found", "model")
    with pytest.raises(openai.NotFoundError):
        server.client.chat.completions.create(model="gpt-4", messages=HELLO)


def test_a_prompt_beyond_the_context(server):
    long = "长江" * 200
    for path, ask in ((CHAT, {"messages": [{"role": "user", "content": long}]}), (TEXT, {"prompt": long})):
        for stream in (False, True):
            response = httpx.post(f"{server.url}{path}", json={**ask, "stream": stream})
            assert "128" in refused(response, 400, "context_length_exceeded")


@pytest.mark.parametrize(
    "content",
    [b"{", b"", b"[]", b'"x"', b'{"prompt": "\xff\xfe"}', b"[" * 100_000, b'{"prompt": "x", "n": NaN}', b"null"],
)
def test_a_body_that_is_no_right_json(server, content):
    for path in (CHAT, TEXT):
        refused(httpx.post(f"{server.url}{path}", content=content, headers=JSON), 400)


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
def test_a_body_of_another_kind(server, kind):
    headers = {"content-type": kind} if kind else {}
    refused(httpx.post(f"{server.url}{TEXT}", content=b'{"prompt": "x"}', headers=headers), 415)


def test_a_body_that_is_too_large_announced_or_not(server):
    large = json.dumps({"prompt": "x" * 20_000_000}).encode()

    def pieces():
        for at in range(0, len(large), 65536):
            yield large[at : at + 65536]

    refused(httpx.post(f"{server.url}{TEXT}", content=large, headers=JSON), 413, "request_too_large")
    refused(httpx.post(f"{server.url}{TEXT}", content=pieces(), headers=JSON), 413, "request_too_large")
    with pytest.raises(openai.APIStatusError) as refusal:
        server.client.completions.create(model="tiny", prompt="x" * 2_000_000)
    assert refusal.value.status_code == 413


def test_a_body_that_does_not_come(server, monkeypatch):
    monkeypatch.setattr(gate, "_BODY_S", 0.2)
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as line:
        line.sendall(f"POST {TEXT} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n".encode())
        line.sendall(b'Content-Length: 100\r\n\r\n{"prompt"')
        assert line.recv(1000).startswith(b"HTTP/1.1 408")


def test_no_such_address_and_no_such_method(server):
    refused(httpx.get(f"{server.url}/v2/models"), 404, "unknown_url")
    refused(httpx.post(f"{server.url}/v1/embeddings", json={"input": "x"}), 404, "unknown_url")
    refused(httpx.get(f"{server.url}{CHAT}"), 405, "method_not_allowed")
    refused(httpx.delete(f"{server.url}/v1/models/tiny"), 405, "method_not_allowed")


def test_what_is_no_http_at_all(server):
    host, port = server.url.removeprefix("http://").split(":")
    for nonsense in (b"\x16\x03\x01\x02\x00\x01\x00", b"GET / HTTP/9.9\r\n\r\n", b"\r\n" * 100, b"X" * 100_000):
        with socket.create_connection((host, int(port)), timeout=10) as line:
            line.sendall(nonsense)


def test_a_wrong_key_is_refused_and_the_right_one_is_not(serving, random_model, taught):
    with serving(random_model, taught, api_key="s3cret") as server:
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "s3cret"}, {"authorization": b"\xff"}):
            response = httpx.get(f"{server.url}/v1/models", headers=headers)
            refused(response, 401, "invalid_api_key")
            refused(httpx.post(f"{server.url}{TEXT}", json={"prompt": "x"}, headers=headers), 401, "invalid_api_key")
        assert response.headers["www-authenticate"] == "Bearer"
        assert httpx.get(f"{server.url}/health").json() == {"status": "ok"}
        with pytest.raises(openai.AuthenticationError):
            server.client.models.list()
        assert server.client.with_options(api_key="s3cret").models.list().data[0].id == "tiny"


def test_pages_elsewhere_may_only_call_where_they_are_allowed_to(server, serving, random_model, taught):
    origin = {"origin": "http://localhost:3000"}
    preflight = {**origin, "access-control-request-method": "POST", "access-control-request-headers": "content-type"}
    assert "access-control-allow-origin" not in httpx.get(f"{server.url}/v1/models", headers=origin).headers
    refused(httpx.options(f"{server.url}{CHAT}", headers=preflight), 405)
    with serving(random_model, taught, api_key="s3cret", origins=(origin["origin"],)) as open_server:
        answer = httpx.options(f"{open_server.url}{CHAT}", headers=preflight)
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == origin["origin"]
        other = httpx.options(f"{open_server.url}{CHAT}", headers={**preflight, "origin": "http://elsewhere"})
        assert "access-control-allow-origin" not in other.headers


def test_a_bug_is_told_apart_from_a_mistake(server, monkeypatch):
    monkeypatch.setattr(server.app.worker, "submit", lambda *_: 1 / 0)
    assert "log" in refused(httpx.post(f"{server.url}{TEXT}", json={"prompt": "x"}), 500, "internal_error")


def test_an_engine_that_fails_is_told_in_a_stream_too(server, monkeypatch):
    def fail(*_):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(server.app.worker.engine, "_checked", fail)
    message = refused(httpx.post(f"{server.url}{TEXT}", json={"prompt": "x"}), 500, "internal_error")
    assert message == "out of memory"
    with pytest.raises(openai.APIError, match="out of memory"):
        list(server.client.completions.create(model="tiny", prompt="x", stream=True))
