"""The whole path through the command line, each verb on what the one before it left."""

import json
import signal
from pathlib import Path

import pytest
import torch

from danlu.checkpoint import load_model, load_tokenizer
from danlu.cli import main
from danlu.storage import sha256_of
from danlu.train import devices, trainer

RUN = """
data = "shards"
out = "run"
budget = "20 steps"
context = 32
batch_tokens = 256
eval_every = 10
checkpoint_every = 5
eval_tokens = 500
sample_tokens = 4
[model]
hidden_size = 32
num_hidden_layers = 2
num_attention_heads = 4
num_key_value_heads = 2
head_dim = 16
intermediate_size = 48
[device]
name = "cpu"
precision = "fp32"
threads = 1
"""


def test_from_a_text_file_to_a_model_that_transformers_opens(texts, tmp_path, monkeypatch, capsys):
    transformers = pytest.importorskip("transformers")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(devices, "physical_cores", lambda: 1)  # threads that wait for each other take seconds

    def danlu(*argv, status=0):
        assert main([*argv, "--json"]) == status, capsys.readouterr().err
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    (tmp_path / "corpus.txt").write_text("\n".join(texts), encoding="utf-8")
    (tmp_path / "unseen.txt").write_text("\n".join(text[::-1] for text in texts[:20]), encoding="utf-8")
    (tmp_path / "run.toml").write_text(RUN, encoding="utf-8")
    source = ("corpus.txt", "--txt-unit", "line")

    learned = danlu("tokenizer", "train", *source, "--vocab-size", "320", "--out", "tokenizer")
    assert learned["vocab_size"] == 320

    packed = danlu("prepare", *source, "--tokenizer", "tokenizer", "--validation-share", "0.1", "--out", "shards")
    assert packed["documents"] == packed["kept"] == len(texts)
    assert packed["characters"] == sum(map(len, texts))
    assert min(packed["tokens"].values()) > 0

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "train_step", stopping_in(step=12, train_step=trainer.train_step))
        stopped = danlu("train", "run.toml", status=130)
    assert (stopped["step"], stopped["finished"]) == (12, False)
    done = danlu("train", "run", "--resume")
    assert (done["step"], done["resumed_at"], done["finished"]) == (20, 12, True)
    unbroken = danlu("train", "run.toml", "--out", "unbroken")
    assert weights_of(done) == weights_of(unbroken)

    score = danlu("eval", "run", "unseen.txt", "--txt-unit", "line", "--no-baselines")
    assert score["characters"] == sum(map(len, texts[:20]))
    assert 0 < score["bits_per_char"] < 20

    written = danlu("generate", "run", texts[0][:5], "--max-new-tokens", "6", "--temperature", "0")
    assert written["prompt"] == texts[0][:5]
    assert written["tokens"] in range(1, 7)

    ours, tokenizer = load_model(tmp_path / "run" / "best"), load_tokenizer(tmp_path / "run" / "best")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "best")
    their_tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "run" / "best")
    ids = their_tokenizer(texts[0], return_tensors="pt")["input_ids"][:, :32]
    assert ids[0].tolist() == tokenizer.encode(texts[0])[:32]
    with torch.no_grad():
        torch.testing.assert_close(theirs(ids).logits, ours(ids).logits_BTV, rtol=1e-4, atol=1e-4)
    greedy = torch.tensor([[tokenizer.eos_id, *tokenizer.encode(written["prompt"])]])
    out = theirs.generate(greedy, max_new_tokens=6, do_sample=False)[0, greedy.shape[1] :].tolist()
    assert tokenizer.decode(i for i in out if i != tokenizer.eos_id) == written["texts"][0]


def stopping_in(step, train_step):
    """Send SIGINT, as Ctrl-C does, in the middle of a step."""
    count = 0

    def stepping(*args):
        nonlocal count
        count += 1
        if count == step:
            signal.raise_signal(signal.SIGINT)
        return train_step(*args)

    return stepping


def weights_of(done):
    return sha256_of(Path(done["checkpoint"]) / "model.safetensors")
