"""GGUF, the file that llama.cpp and its relatives read: metadata, the tokenizer, then the weights, one file.

Names and keys are those of llama.cpp's `qwen3`. Norms stay float32; a tied head is not stored; queries and keys are not
permuted, since this family pairs channel i with i + K/2 there too. Weights are converted and written one at a time.
Source: the GGUF specification and the package `gguf`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from danlu import log
from danlu.errors import CheckpointError, DanluError
from danlu.export.vocabulary import Vocabulary
from danlu.model import Model
from danlu.model.qwen3 import Qwen3

if TYPE_CHECKING:
    from gguf import GGMLQuantizationType, GGUFWriter

DTYPES = ("f32", "f16", "bf16", "q8_0")
_FILE_TYPES = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "bf16": "MOSTLY_BF16", "q8_0": "MOSTLY_Q8_0"}
_BLOCK = 32
"""So many weights of a row share a scale in q8_0."""
_LARGEST_F16 = 65504.0


@dataclass(frozen=True, slots=True)
class _Stored:
    """A weight on its way into the file: its name there, and the type it gets."""

    name: str
    weight: Tensor
    kind: GGMLQuantizationType


def require_gguf() -> Any:
    """Import the package `gguf`. Raises DanluError where it is missing."""
    try:
        import gguf
    except ImportError:
        raise DanluError('--format gguf needs one more package: pip install -e ".[export]"') from None
    return gguf


def require_qwen3(model: Model, folder: Path) -> Qwen3:
    """Return the model as one of the family that llama.cpp computes. Raises CheckpointError for any other."""
    if isinstance(model, Qwen3):
        return model
    raise CheckpointError(
        f"{folder}: is of the family {model.model_type}, which llama.cpp does not compute. "
        "Use --format hf, or train a qwen3 (danlu train nano, small-25m or base-100m)"
    )


def write_gguf(
    path: Path, model: Qwen3, vocabulary: Vocabulary, dtype: str, about: Mapping[str, str], chat_template: str | None
) -> None:
    """Write the file over whatever `path` holds. `about`: texts for `general.…` keys, `name` among them.

    Raises CheckpointError for weights that float16 cannot hold; OSError as files do.
    """
    gguf = require_gguf()
    stored = list(_stored(gguf, model, dtype))
    writer = gguf.GGUFWriter(None, "qwen3")
    _add_general(gguf, writer, dtype, about)
    _add_sizes(writer, model)
    _add_vocabulary(writer, vocabulary, chat_template)
    for one in stored:
        shape, size = _bytes_of(gguf, one)
        writer.add_tensor_info(one.name, shape, np.dtype(np.float32), size, raw_dtype=one.kind)
    with closing(writer):
        writer.write_header_to_file(path)
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        (file,) = writer.fout
        for one in stored:
            writer.write_padding(file, file.tell())
            file.write(_converted(gguf, one).data)  # its own way of writing hides why a disk refuses
        writer.write_padding(file, file.tell())


def _stored(gguf: Any, model: Qwen3, dtype: str) -> Iterator[_Stored]:
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN3, model.config.num_hidden_layers)
    kinds = gguf.GGMLQuantizationType
    uneven = 0
    for own, weight in model.state_dict().items():
        name = names.get_name(own, try_suffixes=(".weight",))
        assert name is not None, own
        kind = kinds.F32 if weight.ndim == 1 else kinds[dtype.upper()]
        if kind == kinds.Q8_0 and weight.shape[-1] % _BLOCK:
            kind, uneven = kinds.F16, uneven + 1
        yield _Stored(name, weight, kind)
    if uneven:
        log.say(f"note: {uneven} matrices stay f16: q8_0 needs rows of a multiple of {_BLOCK}")


def _bytes_of(gguf: Any, one: _Stored) -> tuple[tuple[int, ...], int]:
    """Return a weight's shape and its bytes in the file."""
    weights, size = gguf.GGML_QUANT_SIZES[one.kind]
    return tuple(one.weight.shape), one.weight.numel() // weights * size


def _converted(gguf: Any, one: _Stored) -> np.ndarray:
    """Return a weight's bytes. Raises CheckpointError where float16 cannot hold it."""
    weight = one.weight.detach().float().cpu().contiguous()
    if one.kind == gguf.GGMLQuantizationType.F16 and float(weight.abs().max()) > _LARGEST_F16:
        raise CheckpointError(f"{one.name}: holds weights beyond {_LARGEST_F16:,.0f}. Use --dtype bf16 or f32")
    return np.ascontiguousarray(gguf.quantize(weight.numpy(), one.kind))


def _add_general(gguf: Any, writer: GGUFWriter, dtype: str, about: Mapping[str, str]) -> None:
    writer.add_type("model")
    for key, text in about.items():
        writer.add_string(f"general.{key}", text)
    writer.add_languages(["zh"])
    writer.add_file_type(gguf.LlamaFileType[_FILE_TYPES[dtype]])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)


def _add_sizes(writer: GGUFWriter, model: Qwen3) -> None:
    config = model.config
    writer.add_vocab_size(model.vocab_size)
    writer.add_context_length(model.context)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)


def _add_vocabulary(writer: GGUFWriter, vocabulary: Vocabulary, chat_template: str | None) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(vocabulary.cut)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.kinds)
    writer.add_token_merges(vocabulary.merges)
    writer.add_bos_token_id(vocabulary.document)
    writer.add_eos_token_id(vocabulary.end)
    writer.add_eot_token_id(vocabulary.end_of_turn)
    writer.add_pad_token_id(vocabulary.document)
    writer.add_add_bos_token(vocabulary.adds_mark)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(False)
    if chat_template is not None:
        writer.add_chat_template(chat_template)
