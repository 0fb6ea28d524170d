"""Small real things that tests share: a Chinese corpus, a tokenizer, shards, a trained run."""

import os
import random
import shutil
from pathlib import Path

import pytest
import torch

from danlu.config import Qwen3Config
from danlu.data.prepare import prepare
from danlu.data.shards import open_shards
from danlu.model import build_model
from danlu.tokenizer import train_tokenizer
from danlu.types import Document

torch.set_num_threads(1)

_SUBJECTS = ["珠穆朗玛峰", "长江", "这本书", "北京的冬天", "小熊宝宝", "中国经济", "我的老师", "新年音乐会"]
_VERBS = ["是", "位于", "让我想起", "离不开", "非常", "并不", "一直", "已经"]
_ENDS = [
    "世界最高的山峰。",
    "一座美丽的城市！",
    "很多年前的事情。",
    "值得一读。",
    "12月31日的讲话。",
    "发展的历史。",
]


def sentence(rng: random.Random) -> str:
    return rng.choice(_SUBJECTS) + rng.choice(_VERBS) + rng.choice(_ENDS)


@pytest.fixture(scope="session")
def texts() -> list[str]:
    rng = random.Random(0)
    return ["".join(sentence(rng) for _ in range(rng.randint(1, 30))) + f"第{i}篇" for i in range(400)]


@pytest.fixture(scope="session")
def tokenizer(texts):
    return train_tokenizer(texts, 320)


@pytest.fixture(scope="module")
def random_model(tokenizer):
    """A model with a context of 128 tokens whose every weight counts: at first many are zero or one."""
    config = Qwen3Config(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        intermediate_size=48,
    )
    model = build_model(config, tokenizer.vocab_size, 128, seed=1)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.2 * torch.randn(p.shape, generator=generator))
    return model


@pytest.fixture(scope="session")
def tokenizer_folder(tokenizer, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "tokenizer"
    tokenizer.save(folder)
    return folder


@pytest.fixture(scope="session")
def shards_folder(texts, tokenizer, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "shards"
    prepare([Document(t, "test", str(i)) for i, t in enumerate(texts)], tokenizer, folder, 0.1)
    return folder


@pytest.fixture(scope="session")
def shards(shards_folder):
    return open_shards(shards_folder)


@pytest.fixture(scope="module")
def chromium():
    """Chromium, driven by playwright; where there is none a test is skipped, or fails if it is required."""
    required = "DANLU_REQUIRE_BROWSER" in os.environ
    if required:
        from playwright import sync_api
    else:
        sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        names = ("chromium", "chromium-browser", "google-chrome")
        found = next(filter(None, map(shutil.which, names)), playwright.chromium.executable_path)
        if not required and not Path(found).exists():
            pytest.skip("no Chromium here: apt-get install chromium, or playwright install chromium")
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()
