"""`danlu summary` from the command line: what a preset, a TOML file and a checkpoint consist of."""

import json
import math

import pytest
from safetensors.torch import load_file

from danlu.checkpoint import save_checkpoint
from danlu.cli import main
from danlu.config import ArticleConfig, Qwen3Config
from danlu.model import build_model

ARTICLE = 25_869_568
TINY = Qwen3Config(
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    intermediate_size=48,
)


def said(capsys, *argv):
    assert main(["summary", *map(str, argv), "--json"]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def refused(capsys, *argv):
    assert main(["summary", *map(str, argv)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    return captured.err


def by_hand(c: Qwen3Config, vocab_size: int) -> int:
    """Count the parameters of a tied qwen3 model from its sizes."""
    D, K, H, G = c.hidden_size, c.head_dim, c.num_attention_heads, c.num_key_value_heads
    attention = D * K * (H + 2 * G) + H * K * D + 2 * K
    block = attention + 3 * D * c.intermediate_size + 2 * D
    return vocab_size * D + c.num_hidden_layers * block + D


@pytest.mark.parametrize("preset", ["article-v1", "article-v2"])
def test_the_articles_presets_have_its_parameters(preset, capsys):
    result = said(capsys, preset)
    assert result["parameters"] == ARTICLE
    assert (result["model_type"], result["vocab_size"], result["context"]) == ("danlu_article", 6_400, 512)


def test_small_25m_is_no_larger_than_the_article(capsys):
    result = said(capsys, "small-25m")
    assert 0.95 * ARTICLE < result["parameters"] <= ARTICLE
    sizes = [part for layer in result["layers"] if len(layer["shape"]) == 2 for part in layer["shape"]]
    assert all(size % 256 == 0 for size in sizes)


@pytest.mark.parametrize("vocab_size", [6_400, 1_000])
def test_the_counts_of_a_preset_add_up(vocab_size, capsys):
    result = said(capsys, "nano", "--vocab-size", vocab_size)
    assert result["parameters"] == by_hand(Qwen3Config(num_hidden_layers=4), vocab_size)
    assert result["parameters"] == sum(result["by_kind"].values())
    assert all(layer["parameters"] == math.prod(layer["shape"]) for layer in result["layers"])
    assert result["parameters"] == sum(layer["parameters"] for layer in result["layers"])
    assert result["memory_bytes"]["weights_fp32"] == 4 * result["parameters"]
    assert result["memory_bytes"]["cache_per_token_fp32"] == 4 * 4 * 2 * 4 * 64


def test_a_toml_file_is_summed_up_as_it_would_be_trained(tmp_path, capsys):
    path = tmp_path / "mine.toml"
    table = "\n".join(f"{key} = {json.dumps(value)}" for key, value in TINY.model_dump().items())
    path.write_text(f'preset = "nano"\ncontext = 128\nbatch_tokens = 256\nschedule.stretches = []\n[model]\n{table}\n')
    result = said(capsys, path, "--vocab-size", 300)
    assert result["parameters"] == by_hand(TINY, 300)
    assert (result["context"], result["batch_tokens"]) == (128, 256)


@pytest.mark.parametrize("config", [TINY, ArticleConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4)])
def test_a_checkpoint_has_the_parameters_of_its_weights(config, tmp_path, capsys):
    folder = tmp_path / "c"
    save_checkpoint(folder, build_model(config, 97, 24))
    weights = load_file(folder / "model.safetensors")
    result = said(capsys, folder)
    assert result["parameters"] == sum(tensor.numel() for tensor in weights.values())
    assert {layer["name"]: layer["shape"] for layer in result["layers"]} == {
        name: list(tensor.shape) for name, tensor in weights.items()
    }
    assert (result["vocab_size"], result["context"]) == (97, 24)
    assert said(capsys, folder / "config.json") == result


def test_without_json_the_text_names_every_layer(capsys):
    assert main(["summary", "article-v1"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("danlu_article, 25,869,568 parameters, 6,400 entries, context 512\n")
    assert all(layer["name"] in text for layer in said(capsys, "article-v1")["layers"])


@pytest.mark.parametrize(
    ("argv", "word"),
    [
        ([], "MODEL"),
        (["nanno"], "did you mean `nano`"),
        (["nano", "--vocab-size", "0"], "--vocab-size 0"),
        (["nano", "--vocab-size", str(10**14)], "cannot be made"),
        (["missing.toml"], "missing.toml"),
        (["."], "config.json"),
        (["missing/config.json"], "missing/config.json"),
    ],
)
def test_a_mistake_is_one_line(argv, word, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert word in refused(capsys, *argv)


def test_a_run_without_a_checkpoint_is_one_line(tmp_path, capsys):
    (tmp_path / "run.toml").write_text("")
    assert "without a checkpoint" in refused(capsys, tmp_path)
