"""The .gguf read back with the package `gguf`: every key that llama.cpp's qwen3 asks for, every weight."""

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from danlu.config import Qwen3Config
from danlu.errors import CheckpointError
from danlu.export.gguf import write_gguf
from danlu.export.vocabulary import vocabulary_of
from danlu.model import build_model
from danlu.tokenizer import CHATML

SHAPE = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 96,
    "rope_theta": 5_000.0,
}
THEIRS = {
    "model.layers.1.self_attn.q_proj.weight": "blk.1.attn_q.weight",
    "model.layers.1.self_attn.k_proj.weight": "blk.1.attn_k.weight",
    "model.layers.1.self_attn.v_proj.weight": "blk.1.attn_v.weight",
    "model.layers.1.self_attn.o_proj.weight": "blk.1.attn_output.weight",
    "model.layers.1.self_attn.q_norm.weight": "blk.1.attn_q_norm.weight",
    "model.layers.1.self_attn.k_norm.weight": "blk.1.attn_k_norm.weight",
    "model.layers.1.input_layernorm.weight": "blk.1.attn_norm.weight",
    "model.layers.1.post_attention_layernorm.weight": "blk.1.ffn_norm.weight",
    "model.layers.1.mlp.gate_proj.weight": "blk.1.ffn_gate.weight",
    "model.layers.1.mlp.up_proj.weight": "blk.1.ffn_up.weight",
    "model.layers.1.mlp.down_proj.weight": "blk.1.ffn_down.weight",
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}


def random_weights(**changes):
    model = build_model(Qwen3Config(**SHAPE | changes), 330, 128)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator))
    return model


def written(path, model, tokenizer, dtype):
    vocabulary = vocabulary_of(tokenizer, model.vocab_size, Path("folder"))
    write_gguf(path, model, vocabulary, dtype, {"name": "炉"}, tokenizer.chat_template)
    return gguf.GGUFReader(path)


def weights_of(reader):
    return {t.name: gguf.dequantize(t.data, t.tensor_type) for t in reader.tensors}


def test_every_key_has_the_models_value(tokenizer, tmp_path):
    reader = written(tmp_path / "x.gguf", random_weights(), tokenizer, "f32")
    expected = {
        "general.architecture": "qwen3",
        "general.name": "炉",
        "general.languages": ["zh"],
        "general.file_type": 0,
        "qwen3.vocab_size": 330,
        "qwen3.context_length": 128,
        "qwen3.embedding_length": 64,
        "qwen3.block_count": 2,
        "qwen3.feed_forward_length": 96,
        "qwen3.attention.head_count": 4,
        "qwen3.attention.head_count_kv": 2,
        "qwen3.attention.key_length": 16,
        "qwen3.attention.value_length": 16,
        "qwen3.rope.dimension_count": 16,
        "qwen3.rope.freq_base": 5_000.0,
        "qwen3.attention.layer_norm_rms_epsilon": np.float32(1e-6),
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 0,
        "tokenizer.ggml.eot_token_id": 2,
        "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_eos_token": False,
        "tokenizer.chat_template": CHATML,
    }
    assert {key: reader.fields[key].contents() for key in expected} == expected
    tokens = reader.fields["tokenizer.ggml.tokens"].contents()
    assert {tokens[i]: i for i in range(320)} == tokenizer.vocabulary
    assert len(tokens) == len(reader.fields["tokenizer.ggml.token_type"].contents()) == 330


@pytest.mark.parametrize("tied", [True, False])
def test_float32_holds_the_very_weights_under_llama_cpps_names(tied, tokenizer, tmp_path):
    model = random_weights(tie_word_embeddings=tied)
    found = weights_of(written(tmp_path / "x.gguf", model, tokenizer, "f32"))
    state = model.state_dict()
    assert len(found) == len(state)
    assert ("output.weight" in found) is not tied
    for own, name in THEIRS.items():
        if own in state:
            np.testing.assert_array_equal(found[name], state[own].numpy())


@pytest.mark.parametrize(("dtype", "type_name"), [("f16", torch.float16), ("bf16", torch.bfloat16)])
def test_half_the_bytes_hold_what_torch_rounds_to(dtype, type_name, tokenizer, tmp_path):
    model = random_weights()
    reader = written(tmp_path / "x.gguf", model, tokenizer, dtype)
    found, state = weights_of(reader), model.state_dict()
    for own, name in THEIRS.items():
        if own in state:
            rounded = state[own] if state[own].ndim == 1 else state[own].to(type_name).float()
            np.testing.assert_array_equal(found[name].astype(np.float32), rounded.numpy())


def test_q8_0_is_32_weights_to_a_scale_and_norms_stay(tokenizer, tmp_path):
    model = random_weights()
    reader = written(tmp_path / "x.gguf", model, tokenizer, "q8_0")
    found, state = weights_of(reader), model.state_dict()
    assert {t.tensor_type.name for t in reader.tensors} == {"Q8_0", "F32"}
    for own, name in THEIRS.items():
        if own not in state:
            continue
        weight = state[own].numpy()
        if weight.ndim == 1:
            np.testing.assert_array_equal(found[name], weight)
        else:
            blocks = weight.reshape(-1, 32)
            step = np.abs(blocks).max(1, keepdims=True) / 127
            assert (np.abs(found[name].reshape(-1, 32) - blocks) <= step * 0.5 + 0.07 * step).all()  # the scale is f16


def test_rows_that_q8_0_cannot_hold_are_f16_and_it_is_said(tokenizer, tmp_path, capsys):
    reader = written(tmp_path / "x.gguf", random_weights(intermediate_size=80), tokenizer, "q8_0")
    kinds = {t.name: t.tensor_type.name for t in reader.tensors}
    assert (kinds["blk.0.ffn_down.weight"], kinds["blk.0.ffn_up.weight"]) == ("F16", "Q8_0")
    assert "2 matrices stay f16" in capsys.readouterr().err


def test_weights_beyond_f16_are_refused(tokenizer, tmp_path):
    model = random_weights()
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, 0] = 70_000.0
    with pytest.raises(CheckpointError, match=r"ffn_up.*bf16 or f32"):
        written(tmp_path / "x.gguf", model, tokenizer, "f16")
    written(tmp_path / "y.gguf", model, tokenizer, "bf16")
