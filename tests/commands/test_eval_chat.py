"""`danlu eval --chat` from the command line: the figures of `judge`, models side by side, one line for a mistake."""

import json

import pytest
import torch

from danlu.checkpoint import load_model, load_tokenizer, save_checkpoint
from danlu.cli import main
from danlu.config import ArticleConfig, Qwen3Config
from danlu.data.chat import parse
from danlu.data.template import ChatTemplate
from danlu.evaluate.chat import ChatScore, judge
from danlu.infer.sampling import Sampling
from danlu.model import build_model
from danlu.tokenizer import Tokenizer

CONFIG = Qwen3Config(
    hidden_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, head_dim=16, intermediate_size=48
)
ROWS = [{"question": f"长江是什么？{number}", "answer": "一条河。"} for number in range(10)]
FEW = ["--max-new-tokens", 5, "--questions", 3]


def write(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def folder(tokenizer, tmp_path_factory):
    model = build_model(CONFIG, tokenizer.vocab_size, 96, seed=1)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():  # as they are at first, many weights are zero or one
        for p in model.parameters():
            p.add_(0.2 * torch.randn(p.shape, generator=generator))
    path = tmp_path_factory.mktemp("eval_chat") / "ckpt"
    save_checkpoint(path, model, tokenizer)
    return path


@pytest.fixture(scope="module")
def silent(tokenizer, tmp_path_factory):
    """A model of a shorter context that ends every answer at once."""
    model = build_model(ArticleConfig(hidden_size=32, num_attention_heads=4), tokenizer.vocab_size, 64)
    with torch.no_grad():
        model.language_model_out_linear_layer.bias[tokenizer.special_ids["<|im_end|>"]] = 1_000.0
    path = tmp_path_factory.mktemp("eval_chat") / "silent"
    save_checkpoint(path, model, tokenizer)
    return path


@pytest.fixture(scope="module")
def chat(tmp_path_factory):
    return write(tmp_path_factory.mktemp("eval_chat") / "qa.jsonl", ROWS)


def said(capsys, *argv):
    assert main(["eval", *map(str, argv), "--json"]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def refused(capsys, *argv):
    assert main(["eval", *map(str, argv)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    line = captured.err.splitlines()[-1]
    assert line.startswith("error: ")
    return line


def test_the_object_holds_what_the_function_returns_of_questions_taken_evenly(folder, chat, capsys):
    result = said(capsys, folder, "--chat", chat, *FEW)
    tokenizer = load_tokenizer(folder)
    asked = [parse(ROWS[number]) for number in (0, 3, 6)]
    template, sampling = ChatTemplate(tokenizer), Sampling(temperature=0.8)
    score, _ = judge(load_model(folder), tokenizer, template, asked, max_new_tokens=5, sampling=sampling)
    for key, value in score.as_dict().items():
        assert result.pop(key) == pytest.approx(value, rel=1e-5)
    assert result.pop("device") in ("cpu", "cuda", "mps")
    assert result == {
        "checkpoint": str(folder),
        "conversations": 10,
        "skipped": 0,
        "precision": "fp32",
        "temperature": 0.8,
        "against": {},
        "shown": [],
    }


def test_models_answer_the_same_questions_side_by_side(folder, silent, tmp_path, capsys):
    rows = [*ROWS[:2], {"question": "b" * 40, "answer": "a" * 10}]  # only one of them can read the last
    path = write(tmp_path / "qa.jsonl", rows)
    alone = said(capsys, folder, "--chat", path, "--max-new-tokens", 5)
    assert (alone["questions"], alone["left_out"]) == (3, 0)
    result = said(capsys, folder, "--chat", path, "--max-new-tokens", 5, "--against", silent, "--show", 1)
    other = result["against"][str(silent)]
    assert set(other) == set(ChatScore.__dataclass_fields__)
    assert (result["questions"], result["left_out"]) == (other["questions"], other["left_out"]) == (2, 1)
    assert (result["stopped"], other["stopped"]) == (0, 1)
    [shown] = result["shown"]
    assert (shown["question"], shown["reference"]) == ("长江是什么？0", "一条河。")
    assert shown["answers"].keys() == {str(folder), str(silent)}
    assert shown["answers"][str(silent)] == ""
    assert shown["stopped"] == {str(folder): "length", str(silent): "eos"}


def test_the_table_has_a_column_a_model_the_judged_one_last(folder, silent, chat, capsys):
    flags = [*FEW, "--against", silent, "--show", 1]
    assert main(["eval", *map(str, (folder, "--chat", chat, *flags))]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [str(silent), str(folder)] in [line.split() for line in lines]
    ended = next(line for line in lines if "ended by themselves" in line)
    assert ended.split()[-2:] == ["100.0%", "0.0%"]
    at = lines.index("1. 长江是什么？0")
    assert [line.split()[0] for line in lines[at + 1 :]] == ["reference", str(silent), str(folder)]
    assert lines[-1].endswith("…")


def test_a_preference_is_refused_or_counted(folder, tmp_path, capsys):
    pair = {"prompt": "一", "chosen": "二", "rejected": "三"}
    path = write(tmp_path / "mixed.jsonl", [pair, *ROWS, {"text": "无"}])
    assert "record 1: is a preference, not a conversation" in refused(capsys, folder, "--chat", path)
    result = said(capsys, folder, "--chat", path, *FEW, "--skip-bad")
    assert (result["conversations"], result["skipped"]) == (10, 2)
    path = write(tmp_path / "pairs.jsonl", [pair])
    assert "holds no conversation" in refused(capsys, folder, "--chat", path, "--skip-bad")


def test_a_tokenizer_without_a_template_is_named_whichever_model_has_it(folder, chat, tokenizer, tmp_path, capsys):
    plain = Tokenizer(
        (folder / "tokenizer.json").read_text(), {k: v for k, v in tokenizer.config.items() if k != "chat_template"}
    )
    save_checkpoint(tmp_path / "plain", load_model(folder), plain)
    for argv in ([tmp_path / "plain", "--chat", chat], [folder, "--chat", chat, "--against", tmp_path / "plain"]):
        assert f"{tmp_path / 'plain'}: its tokenizer has no chat_template" in refused(capsys, *argv)


def test_conversations_that_are_all_too_long_are_one_line(folder, tmp_path, capsys):
    path = write(tmp_path / "long.jsonl", [{"question": "山" * 300, "answer": "高。"}])
    assert "no conversation fits into the context of 96 tokens" in refused(capsys, folder, "--chat", path)


def test_weights_that_are_not_finite_name_the_checkpoint(tokenizer, folder, chat, tmp_path, capsys):
    model = load_model(folder)
    with torch.no_grad():
        next(model.parameters()).fill_(torch.nan)
    save_checkpoint(tmp_path / "nan", model, tokenizer)
    assert f"{tmp_path / 'nan'}: " in refused(capsys, folder, "--chat", chat, *FEW, "--against", tmp_path / "nan")


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (["--questions", "0"], "--questions 0"),
        (["--show=-1"], "--show -1"),
        (["--max-new-tokens", "0"], "--max-new-tokens 0"),
        (["--window", "8"], "--window and --chat do not go together"),
        (["--no-baselines"], "--baselines and --chat do not go together"),
    ],
)
def test_wrong_flags_are_one_line(folder, chat, flags, word, capsys):
    assert word in refused(capsys, folder, "--chat", chat, *flags)


def test_texts_and_conversations_do_not_go_together(folder, chat, capsys):
    assert "text to score and --chat" in refused(capsys, folder, "demo", "--chat", chat)
    assert "--against and no --chat" in refused(capsys, folder, "demo", "--against", folder)
