"""Models that danlu's families do not include, judged through transformers."""

import sys

import pytest
import torch

from danlu.checkpoint import save_checkpoint
from danlu.config import Qwen3Config
from danlu.errors import CheckpointError, TokenizerError
from danlu.evaluate.foreign import ForeignTokenizer, load_any
from danlu.evaluate.loss import score_texts
from danlu.model import build_model

transformers = pytest.importorskip("transformers")

TINY = Qwen3Config(hidden_size=32, num_hidden_layers=1, intermediate_size=48)


def gpt2(vocab_size):
    config = transformers.GPT2Config(vocab_size=vocab_size, n_positions=48, n_embd=32, n_layer=2, n_head=2)
    return transformers.GPT2LMHeadModel(config)


def llama(vocab_size):
    config = transformers.LlamaConfig(
        vocab_size=vocab_size,
        max_position_embeddings=48,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
    )
    return transformers.LlamaForCausalLM(config)


@pytest.fixture(params=[gpt2, llama])
def folder(request, tokenizer_folder, tokenizer, tmp_path):
    torch.manual_seed(0)
    request.param(tokenizer.vocab_size).save_pretrained(tmp_path / "model")
    transformers.AutoTokenizer.from_pretrained(tokenizer_folder).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_any_causal_model_scores_as_transformers_computes_it(folder, texts):
    candidate = load_any(folder)
    assert candidate.context == candidate.default_window == 48
    score = score_texts(candidate.model, candidate.tokenizer, texts[:5], 48)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    tok = transformers.AutoTokenizer.from_pretrained(folder)
    nats = 0.0
    for text in texts[:5]:
        ids = [tok.eos_token_id, *tok(text, add_special_tokens=False)["input_ids"]]
        for start in range(0, len(ids) - 1, 48):
            part = torch.tensor([ids[start : start + 49]])
            with torch.no_grad():
                logp = theirs(part[:, :-1]).logits.double().log_softmax(-1)
            nats -= logp[0].gather(1, part[0, 1:, None]).sum().item()
    assert score.nats == pytest.approx(nats, rel=1e-5)
    assert score.characters == sum(map(len, texts[:5]))


def test_rows_are_computed_a_few_at_a_time_for_the_logits_sake(folder, texts, monkeypatch):
    candidate = load_any(folder)
    whole = score_texts(candidate.model, candidate.tokenizer, texts[:9], 48).nats
    monkeypatch.setattr("danlu.evaluate.foreign._LOGITS_AT_ONCE", 1)
    assert score_texts(candidate.model, candidate.tokenizer, texts[:9], 48).nats == pytest.approx(whole, rel=1e-6)


def test_a_document_begins_with_bos_or_else_eos(tokenizer_folder, tmp_path):
    tok = transformers.AutoTokenizer.from_pretrained(tokenizer_folder)
    assert ForeignTokenizer(tok, tmp_path).document_id == tok.eos_token_id
    tok.bos_token = "<|im_start|>"
    assert ForeignTokenizer(tok, tmp_path).document_id == tok.convert_tokens_to_ids("<|im_start|>")
    tok.bos_token = tok.eos_token = None
    with pytest.raises(TokenizerError, match="neither a bos nor an eos"):
        ForeignTokenizer(tok, tmp_path)


def test_a_special_token_written_in_a_text_is_text(folder, tokenizer):
    literal = "a<|endoftext|>b"
    assert load_any(folder).tokenizer.encode_batch([literal]) == tokenizer.encode_batch([literal])


def test_danlus_own_folders_need_no_transformers(tokenizer, tmp_path, monkeypatch):
    save_checkpoint(tmp_path / "own", build_model(TINY, tokenizer.vocab_size, 32), tokenizer)
    monkeypatch.setitem(sys.modules, "transformers", None)
    candidate = load_any(tmp_path / "own")
    assert (candidate.context, candidate.default_window) == (32, 32)


def test_without_transformers_a_foreign_folder_says_what_to_install(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(CheckpointError, match=r"needs transformers, .*pip install transformers"):
        load_any(folder)


def test_a_broken_foreign_folder_is_one_line(folder):
    (folder / "model.safetensors").write_bytes(b"\0" * 10)
    with pytest.raises(CheckpointError, match="transformers cannot open this model") as caught:
        load_any(folder)
    assert "\n" not in str(caught.value)


def test_a_foreign_folder_without_a_tokenizer_is_one_line(folder):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    with pytest.raises(TokenizerError) as caught:
        load_any(folder)
    assert "\n" not in str(caught.value)
