"""Settings: strict, layered over presets, and their set of keys frozen."""

import tomllib

import pytest

from danlu.config import TrainConfig, parse_budget
from danlu.configure import check, preset_names, read_config, read_tables, to_toml
from danlu.errors import ConfigError

KEYS = [
    "preset",
    "data",
    "out",
    "init",
    "budget",
    "seed",
    "context",
    "batch_tokens",
    "packing",
    "document_mask",
    "eval_every",
    "eval_tokens",
    "checkpoint_every",
    "keep_checkpoints",
    "objective",
    "replay",
    "replay_share",
    "prompts",
    "embedding",
    "optim.muon_steps",
    "sample_every",
    "sample_tokens",
    "model.model_type",
    "model.hidden_size",
    "model.num_hidden_layers",
    "model.num_attention_heads",
    "model.num_key_value_heads",
    "model.head_dim",
    "model.intermediate_size",
    "model.rope_theta",
    "model.rms_norm_eps",
    "model.tie_word_embeddings",
    "optim.name",
    "optim.lr",
    "optim.muon_lr",
    "optim.betas",
    "optim.eps",
    "optim.momentum",
    "optim.weight_decay",
    "optim.decay_all",
    "optim.clip",
    "schedule.shape",
    "schedule.warmup_steps",
    "schedule.decay",
    "schedule.floor",
    "schedule.least_steps",
    "schedule.stretches",
    "device.name",
    "device.precision",
    "device.threads",
    "device.micro_batch_tokens",
    "device.attention",
    "device.blas",
    "device.compile",
    "device.deterministic",
    "adapter",
    "questions",
    "lora.rank",
    "lora.alpha",
    "dpo.kind",
    "dpo.beta",
    "dpo.gamma",
    "distill.teacher",
    "distill.temperature",
    "distill.hard_share",
]


def test_the_set_of_keys_is_frozen():
    """A key may be added here on purpose; one that vanishes breaks people's files."""
    found = []
    for key, value in TrainConfig().model_dump().items():
        found += [f"{key}.{inner}" for inner in value] if isinstance(value, dict) else [key]
    assert sorted(found) == sorted(KEYS)


@pytest.mark.parametrize("name", preset_names())
def test_presets_are_valid_and_survive_toml(name):
    config = check(TrainConfig, read_tables(name), name)
    assert check(TrainConfig, tomllib.loads(to_toml(config)), "copy") == config


def test_a_file_lies_over_its_preset_and_flags_over_the_file(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        'preset = "nano"\nseed = 3\n[optim]\nlr = 0.5\n'
        "[[schedule.stretches]]\nuntil=0.5\nwindow=128\nbatch_tokens=512\n"
    )
    config = read_config(TrainConfig, read_tables(str(path)), ["--optim.clip", "2.0", "--data", "there"], "test")
    assert (config.seed, config.optim.lr, config.optim.clip, config.preset) == (3, 0.5, 2.0, "nano")
    assert str(config.data) == "there"
    assert config.model.hidden_size == read_tables("nano")["model"]["hidden_size"]
    assert config.schedule.stretches[0].window == 128


def test_an_unknown_key_is_an_error_with_a_suggestion(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('preset = "nano"\n[optim]\nmuon_rl = 0.1\n')
    with pytest.raises(ConfigError, match=r"optim\.muon_rl.*did you mean `muon_lr`"):
        read_config(TrainConfig, read_tables(str(path)), [], str(path))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("300 steps", (300, "steps")),
        ("20M tokens", (20e6, "tokens")),
        ("1.5 G tokens", (1.5e9, "tokens")),
        ("2 epochs", (2, "epochs")),
        ("10 min", (10, "minutes")),
        ("8 h", (480, "minutes")),
        ("90 s", (1.5, "minutes")),
        ("1_000 steps", (1000, "steps")),
    ],
)
def test_budgets_have_units(text, expected):
    amount, unit = parse_budget(text)
    assert (amount, unit) == (pytest.approx(expected[0]), expected[1])


@pytest.mark.parametrize(
    "text", ["", "5", "ten steps", "-3 steps", "0 h", "inf steps", "nan min", "3 fortnights", "M tokens"]
)
def test_a_wrong_budget_is_a_clear_error(text):
    with pytest.raises(ConfigError, match="budget"):
        parse_budget(text)


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"context": 512, "batch_tokens": 1000}, "no multiple of context"),
        (
            {"schedule": {"stretches": [{"until": 0.5, "window": 100, "batch_tokens": 4096}]}},
            "does not divide context",
        ),
        ({"packing": "padded", "document_mask": True}, "padded"),
        ({"document_mask": "yes"}, "True, False or 'auto'"),
        (
            {"model": {"model_type": "qwen3", "num_attention_heads": 4, "num_key_value_heads": 3}},
            "does not divide",
        ),
        (
            {"model": {"model_type": "danlu_article", "hidden_size": 64, "num_attention_heads": 7}},
            "does not divide",
        ),
        ({"seed": "1"}, "seed"),
        ({"model": {"model_type": "bert"}}, "model"),
    ],
)
def test_contradictory_settings_are_one_line(tables, message):
    with pytest.raises(ConfigError, match=message) as caught:
        check(TrainConfig, tables, "run.toml")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--batch-tokens", "256"], "batch_tokens 256 is no multiple of context 512"),
        (["--schedule.decay", "1.5"], "`schedule.decay`: Input should be less than or equal to 1"),
        (["--schedule.stretches.0.window", "1024"], "schedule.stretches.0.window 1,024 does not divide context 512"),
        (["--context", "128", "--batch-tokens", "256"], "Change --schedule.stretches.0.window or --context"),
        (["--schedule.stretches.0.until", "2"], "`schedule.stretches.0.until`: Input should be less than 1"),
        (["--model.num-attention-heads", "3"], "`model`: num_key_value_heads 4 does not divide num_attention_heads 3"),
        (["--context", "0"], "`context`: Input should be greater than 1"),
        (["--optim.lr", "fast"], "'fast'"),
    ],
)
def test_wrong_flags_are_one_line_that_says_what_and_where(flags, message):
    with pytest.raises(ConfigError) as caught:
        read_config(TrainConfig, read_tables("nano"), flags, "danlu train nano")
    said = str(caught.value)
    assert said.startswith("danlu train nano: ")
    assert message in said
    assert "\n" not in said
    assert "[type=" not in said
