"""A stub of both hubs, and an environment whose hubs it is."""

import pytest
from hub_stub import Stub
from huggingface_hub import constants

from danlu.data.hub import web
from danlu.data.hub.fetch import fetch


@pytest.fixture
def stub():
    server = Stub()
    yield server
    server.stop()


@pytest.fixture
def hub(stub, tmp_path, monkeypatch):
    """The stub as both hubs, with empty caches, no token, and little patience."""
    monkeypatch.setattr(constants, "ENDPOINT", stub.url)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    for name in ("HF_TOKEN", "MODELSCOPE_API_TOKEN", "MODELSCOPE_DOMAIN", "MODELSCOPE_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", stub.url)
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "ms"))
    monkeypatch.setattr(web, "FIRST_WAIT_SECONDS", 0.001)
    monkeypatch.setattr(web, "TIMEOUT_SECONDS", 0.2)
    fetch.cache_clear()
    yield stub
    fetch.cache_clear()
