"""What a `config.json` may hold: both generations of transformers', and one clear line for anything else."""

import pytest

from danlu.config import ArticleConfig, Qwen3Config
from danlu.errors import CheckpointError
from danlu.model import build_model, model_from_hf

QWEN3 = Qwen3Config(hidden_size=32, num_hidden_layers=1, intermediate_size=32, rope_theta=77_000.0)
ARTICLE = ArticleConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=4, dropout=0.2)


def written(config):
    return build_model(config, 50, 16).hf_config()


def refused(config_json) -> str:
    with pytest.raises(CheckpointError) as caught:
        model_from_hf(config_json, "folder/config.json")
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("folder/config.json: ")
    return str(caught.value)


@pytest.mark.parametrize("config", [QWEN3, ARTICLE])
def test_what_danlu_writes_comes_back(config):
    model = model_from_hf(written(config))
    assert (model.config, model.vocab_size, model.context) == (config, 50, 16)


def test_configs_of_both_transformers_generations_are_read():
    both = written(QWEN3)
    old = {k: v for k, v in both.items() if k != "rope_parameters"}
    new = {k: v for k, v in both.items() if k != "rope_theta"}
    assert model_from_hf(old).config.rope_theta == model_from_hf(new).config.rope_theta == 77_000.0
    empty = both | {"rope_parameters": None, "rope_theta": None}
    assert model_from_hf(empty).config.rope_theta == 10_000.0


def test_keys_that_are_left_out_mean_what_transformers_takes_for_them():
    transformers = pytest.importorskip("transformers")
    theirs = transformers.Qwen3Config()
    left_out = ("head_dim", "rms_norm_eps", "tie_word_embeddings")
    ours = model_from_hf({k: v for k, v in written(QWEN3).items() if k not in left_out}).config
    assert {k: getattr(ours, k) for k in left_out} == {k: getattr(theirs, k) for k in left_out}


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_act": "gelu"},
        {"attention_bias": True},
        {"use_sliding_window": True},
        {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}},
        {"rope_parameters": None, "rope_scaling": {"type": "linear", "factor": 2.0}},
        {"model_type": "llama"},
    ],
)
def test_foreign_mathematics_is_refused(change):
    refused(written(QWEN3) | change)


SIZES = ["hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "max_position_embeddings"]


@pytest.mark.parametrize("value", ["64", None, 0, -1, 1.5, [], {}, "x"])
@pytest.mark.parametrize("key", SIZES)
@pytest.mark.parametrize("config", [QWEN3, ARTICLE])
def test_a_size_that_is_none_is_one_line_with_its_key(config, key, value):
    assert key in refused(written(config) | {key: value})


@pytest.mark.parametrize(
    ("config", "key", "value"),
    [
        (QWEN3, "num_key_value_heads", 3),
        (QWEN3, "num_key_value_heads", "4"),
        (QWEN3, "num_attention_heads", 6),
        (QWEN3, "head_dim", 15),
        (QWEN3, "intermediate_size", True),
        (QWEN3, "vocab_size", True),
        (QWEN3, "rope_theta", "10000"),
        (QWEN3, "rope_parameters", "default"),
        (QWEN3, "rms_norm_eps", "1e-6"),
        (QWEN3, "tie_word_embeddings", "yes"),
        (QWEN3, "model_type", ["qwen3"]),
        (ARTICLE, "num_attention_heads", 5),
        (ARTICLE, "hidden_size", 33),
        (ARTICLE, "dropout", "0.1"),
        (ARTICLE, "initialization", None),
    ],
)
def test_a_value_that_cannot_be_is_one_line_with_its_key(config, key, value):
    without_rope = {"rope_parameters": None} if key == "rope_theta" else {}
    assert key in refused(written(config) | without_rope | {key: value})


@pytest.mark.parametrize("size", [10**14, 10**30])
@pytest.mark.parametrize("key", ["hidden_size", "vocab_size"])
def test_sizes_beyond_the_memory_are_one_line(key, size):
    assert "cannot be made" in refused(written(QWEN3) | {key: size})
