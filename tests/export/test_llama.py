"""The .gguf opened in llama.cpp itself: the same ids, the same words, the same bits per character.

Small models trained here; `DANLU_DEMO` names what `danlu demo --chat` made, to use its models instead.
"""

import json
import math
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from adversary import adversary, fuzzed

from danlu.checkpoint import load_model, load_tokenizer
from danlu.cli import main
from danlu.commands.train_ import train
from danlu.config import Qwen3Config, TrainConfig
from danlu.configure import check
from danlu.data.template import ChatTemplate
from danlu.export.gguf import write_gguf
from danlu.export.vocabulary import vocabulary_of
from danlu.infer.generate import generate
from danlu.infer.sampling import Sampling
from danlu.infer.talk import Talk
from danlu.model import build_model
from danlu.tokenizer import SPECIAL_TOKENS, Tokenizer

pytestmark = pytest.mark.llama
MINIMIND = Path(__file__).parent.parent / "data" / "minimind_tokenizer"
GREEDY = Sampling(temperature=0)
PROMPTS = ["珠穆朗玛峰是", "中国经济", "长江", "Hello, 1998年"]
QUESTIONS = ["长江是什么？", "你好"]
MODEL = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "intermediate_size": 128,
}
DEVICE = {"name": "cpu", "precision": "fp32", "threads": 1, "micro_batch_tokens": 512}


@pytest.fixture(scope="module")
def root(shards_folder, tmp_path_factory) -> Path:
    """A folder with `run`, a model that continues texts, and `chat`, which answers."""
    if "DANLU_DEMO" in os.environ:
        return Path(os.environ["DANLU_DEMO"])
    folder = tmp_path_factory.mktemp("llama")
    tables = {"data": str(shards_folder), "out": str(folder / "run"), "budget": "150 steps", "context": 128}
    tables |= {"batch_tokens": 512, "eval_tokens": 300, "sample_tokens": 2, "model": MODEL, "device": DEVICE}
    train(check(TrainConfig, tables, "test"))
    rows = [{"question": f"{name}是什么？{i}", "answer": "一条河。"} for i in range(60) for name in ("长江", "黄河")]
    (folder / "qa.jsonl").write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
    flags = ["--data", folder / "qa.jsonl", "--out", folder / "chat", "--budget", "30 steps", "--batch-tokens", 512]
    flags += ["--questions", 4, "--device.name", "cpu", "--device.precision", "fp32", "--device.threads", 1]
    assert main(["finetune", *map(str, [folder / "run", *flags])]) == 0
    return folder


@pytest.fixture(scope="module")
def opened(root, tmp_path_factory):
    """A function that exports one of the models and opens it in llama.cpp."""
    import llama_cpp

    folder = tmp_path_factory.mktemp("gguf")

    def exported(which, dtype, **options):
        path = folder / f"{which}-{dtype}.gguf"
        if not path.is_file():
            flags = ["--format", "gguf", "--dtype", dtype, "--out", path]
            assert main(["export", *map(str, [root / which, *flags])]) == 0
            (folder / "Modelfile").unlink()
        options |= {"n_ctx": load_model(root / which).context, "n_threads": 1, "n_threads_batch": 1}
        return llama_cpp.Llama(str(path), verbose=False, **options)

    return exported


def ours(root, which):
    return load_model(root / which), load_tokenizer(root / which)


@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_text_is_continued_as_danlu_generate_continues_it(prompt, root, opened):
    """64 greedy tokens of the bare prompt: the mark in front of it comes from the file."""
    model, tokenizer = ours(root, "run")
    expected = generate(model, tokenizer, prompt, max_new_tokens=64, sampling=GREEDY)
    theirs = opened("run", "f32").create_completion(prompt, max_tokens=64, temperature=0)
    whole = expected.texts[0].rstrip("\ufffd")  # the last character may be cut short; the binding completes it
    assert whole
    assert theirs["choices"][0]["text"].startswith(whole)


@pytest.mark.parametrize("prompt", PROMPTS)
def test_64_greedy_tokens_are_the_same(prompt, root, opened):
    """Id by id, going on past end marks."""
    model, tokenizer = ours(root, "run")
    ids = [tokenizer.document_id, *tokenizer.encode(prompt)]
    expected = list(ids)
    with torch.no_grad():
        for _ in range(64):
            expected.append(int(model(torch.tensor([expected])).logits_BTV[0, -1].argmax()))
    theirs = opened("run", "f32").generate(ids, temp=0)
    assert [next(theirs) for _ in range(64)] == expected[len(ids) :]


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_question_is_answered_as_danlu_chat_answers_it(question, root, opened):
    model, tokenizer = ours(root, "chat")
    expected = Talk(model, ChatTemplate(tokenizer), max_new_tokens=40, sampling=GREEDY).ask(question)
    messages = [{"role": "user", "content": question}]
    theirs = opened("chat", "f32").create_chat_completion(messages, max_tokens=40, temperature=0)
    said, whole = theirs["choices"][0]["message"]["content"], expected.texts[0].replace("\ufffd", "")
    assert whole
    assert said.startswith(whole)  # the binding leaves out bytes that are no character, and completes the last one
    assert len(said) <= len(whole) + expected.texts[0].endswith("\ufffd")
    assert (theirs["choices"][0]["finish_reason"] == "stop") is (expected.stopped == ["eos"])


def logits_of(llm, ids):
    llm.reset()
    llm.eval(ids)
    return np.array(llm.scores[: len(ids)])


@pytest.mark.parametrize(("dtype", "tolerance"), [("f32", 1e-4), ("f16", 2e-2), ("bf16", 2e-1)])
def test_logits_are_as_near_as_the_type_is(dtype, tolerance, root, opened, texts):
    model, tokenizer = ours(root, "run")
    exact = 0  # llama.cpp's number of f32; without it, keys and values are kept as f16
    llm = opened("run", dtype, logits_all=True, type_k=exact, type_v=exact)
    for text in texts[:8]:
        ids = [tokenizer.document_id, *tokenizer.encode(text)][:128]
        with torch.no_grad():
            expected = model(torch.tensor([ids])).logits_BTV[0].numpy()
        worst = np.abs(logits_of(llm, ids) - expected).max()
        print(f"{dtype}: largest difference of a logit {worst:.2e}")
        assert worst < tolerance


def test_q8_0_costs_less_than_one_percent_of_bits_per_character(root, opened, texts):
    _, tokenizer = ours(root, "run")

    def bits_per_char(dtype):
        llm, nats, characters = opened("run", dtype, logits_all=True), 0.0, 0
        for text in texts[:60]:
            ids = [tokenizer.document_id, *tokenizer.encode(text[:40])]
            log_probabilities = torch.tensor(logits_of(llm, ids)).log_softmax(-1)
            nats -= float(log_probabilities[torch.arange(len(ids) - 1), torch.tensor(ids[1:])].sum())
            characters += len(text[:40])
        return nats / math.log(2) / characters

    whole, small = bits_per_char("f32"), bits_per_char("q8_0")
    print(f"f32 {whole:.4f}, q8_0 {small:.4f} bits/char")
    assert abs(small / whole - 1) < 0.01


def vocabulary_in_llama(tokenizer, path, cut=None):
    """A model of next to nothing with the tokenizer, its pre-tokeniser renamed to `cut`."""
    import llama_cpp

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1}
    config = Qwen3Config(**sizes, head_dim=16, intermediate_size=16)
    vocabulary = vocabulary_of(tokenizer, tokenizer.vocab_size, Path("folder"))
    vocabulary = replace(vocabulary, cut=cut or vocabulary.cut)
    write_gguf(path, build_model(config, tokenizer.vocab_size, 64), vocabulary, "f32", {"name": "x"}, None)
    return llama_cpp.Llama(str(path), vocab_only=True, verbose=False)


def same(tokenizer, llm, strings):
    """Count the strings that both programs give the same ids."""
    return sum(
        llm.tokenize(text.encode(), add_bos=False) == ids
        for text, ids in zip(strings, tokenizer.encode_batch(strings), strict=True)
    )


@pytest.mark.parametrize("which", ["qwen2", "gpt-2", "trained", "minimind"])
def test_5000_hostile_strings_have_the_same_ids(which, tokenizer, tmp_path):
    subject = {
        "qwen2": adversary,
        "gpt-2": lambda: adversary(gpt2_cut=True),
        "trained": lambda: tokenizer,
        "minimind": lambda: Tokenizer.load(MINIMIND),
    }[which]()
    strings = [
        *fuzzed(4990),
        *SPECIAL_TOKENS,
        "a<|im_end|>b",
        "</s>x",
        "I'Ve don't WE'LL",
        "\r\n\r\n",
        "  ",
        "\0",
        "👨‍👩‍👧",
    ]
    assert same(subject, vocabulary_in_llama(subject, tmp_path / "x.gguf"), strings) == len(strings) == 5000


@pytest.mark.parametrize(("gpt2_cut", "wrong"), [(False, "gpt-2"), (False, "llama-bpe"), (True, "qwen2")])
def test_under_another_name_of_the_cut_the_ids_differ(gpt2_cut, wrong, tmp_path):
    """So the test above can fail: the strings tell one pre-tokeniser from the next."""
    subject = adversary(gpt2_cut)
    assert same(subject, vocabulary_in_llama(subject, tmp_path / "x.gguf", wrong), fuzzed(500)) < 480


def test_entries_that_the_tokenizer_lacks_do_no_harm(tokenizer, tmp_path):
    import llama_cpp

    vocabulary = vocabulary_of(tokenizer, 350, Path("folder"))
    config = Qwen3Config(**MODEL)
    write_gguf(tmp_path / "x.gguf", build_model(config, 350, 64), vocabulary, "f32", {"name": "x"}, None)
    llm = llama_cpp.Llama(str(tmp_path / "x.gguf"), n_ctx=64, n_threads=1, n_threads_batch=1, verbose=False)
    assert llm.n_vocab() == 350
    assert same(tokenizer, llm, ["<unused 349>", *fuzzed(50)]) == 51
    assert len(llm.create_completion("长江", max_tokens=4, temperature=0)["choices"]) == 1
