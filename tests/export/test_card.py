"""The model card: every figure is one that a run's files hold; what is not recorded is called so."""

import json
import shutil

import pytest

from danlu.commands.train_ import train
from danlu.config import TrainConfig
from danlu.configure import check
from danlu.data.prepare import prepare
from danlu.export.card import Subject, card
from danlu.export.recorded import Recorded, recorded
from danlu.types import Document

SUBJECT = Subject("炉", "qwen3", 5_049_088, 6_400, 512, "fp32", "<|endoftext|>", "", "0.1.0")


@pytest.fixture(scope="module")
def run(texts, tokenizer, tmp_path_factory):
    root = tmp_path_factory.mktemp("card")
    documents = [Document(text, "/home/somebody/corpus/书.txt", str(i)) for i, text in enumerate(texts)]
    prepare(documents, tokenizer, root / "shards", 0.1, about={"sources": ["/home/somebody/corpus/书.txt", "demo"]})
    tables = {
        "data": str(root / "shards"),
        "out": str(root / "first"),
        "budget": "4 steps",
        "context": 32,
        "batch_tokens": 128,
        "eval_tokens": 300,
        "eval_every": 2,
        "checkpoint_every": 2,
        "sample_tokens": 2,
        "model": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48},
        "device": {"name": "cpu", "precision": "fp32", "threads": 1, "micro_batch_tokens": 64},
    }
    tables["model"] |= {"num_key_value_heads": 1, "head_dim": 16}
    train(check(TrainConfig, tables, "test"))
    return root / "first"


def rows_of(text):
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return dict(line.strip("| ").split(" | ") for line in lines)


def test_every_checkpoint_is_told_with_its_own_figures(run):
    by_step = {}
    for folder in sorted((run / "checkpoints").iterdir()):
        state = json.loads((folder / "trainer" / "state.json").read_text())["progress"]
        rows = rows_of(card(SUBJECT, recorded(folder)))
        assert rows["first: steps"] == str(state["step"])
        assert rows["first: tokens read"] == str(state["tokens"])
        figure = rows["first: bits per character of held-out text"]
        assert figure == f"{state['quality']['bits_per_char']:,.4g}"
        by_step[state["step"]] = figure
    assert len(set(by_step.values())) == 2


def test_the_data_are_those_of_the_manifest_without_folders_of_the_machine(run):
    text = card(SUBJECT, recorded(run / "best"))
    manifest = json.loads((run / "data.json").read_text())
    rows = rows_of(text)
    assert rows["first: sources"] == "书.txt, demo"
    assert f"{manifest['splits']['train']['tokens']:,} tokens" in rows["first: learned from"]
    assert rows["licence of 书.txt"] == "not recorded"
    assert "not stated" in rows["licence of demo"]
    assert "somebody" not in text
    assert str(run.parent) not in text


def test_what_a_run_started_from_is_told_first(run, tmp_path):
    second = tmp_path / "second"
    shutil.copytree(run / "checkpoints", second / "checkpoints")
    (second / "run.toml").write_text(f'objective = "sft"\ninit = "{run / "best"}"\n')
    (second / "answers.json").write_text('{"scores": {"sft": {"questions": 9, "stopped": 0.5}}}')
    found = recorded(next((second / "checkpoints").iterdir()))
    assert [stage.name for stage in found.chain] == ["first", "second"]
    rows = rows_of(card(SUBJECT, found))
    assert rows["answers of sft"] == "questions 9, ended by themselves 0.5"
    assert "second: bits per character of held-out answers" in rows


def test_a_folder_without_a_run_says_that_nothing_is_recorded(tmp_path):
    text = card(SUBJECT, recorded(tmp_path))
    assert rows_of(text)["data"] == "not recorded"
    assert "## Recipe" not in text
    assert "## Quality" not in text


@pytest.mark.parametrize("name", ["run.toml", "data.json", "plan.json", "answers.json"])
def test_a_broken_file_of_the_run_is_passed_over(name, run, tmp_path, capsys):
    copy = tmp_path / "first"
    shutil.copytree(run, copy, symlinks=True)
    (copy / name).write_text("{")
    card(SUBJECT, recorded(copy / "best"))
    assert "passed over" in capsys.readouterr().err


def front_matter(text):
    yaml = pytest.importorskip("yaml")
    _, head, rest = text.split("---\n", 2)
    return yaml.safe_load(head), rest


def test_the_front_matter_is_what_a_hub_reads():
    head, _ = front_matter(card(SUBJECT, Recorded("x")))
    assert head == {
        "language": ["zh"],
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["danlu", "qwen3"],
    }
    licensed = Subject("炉", "qwen3", 1, 2, 3, "fp32", "", "apache-2.0", "0.1.0")
    assert front_matter(card(licensed, Recorded("x")))[0]["license"] == "apache-2.0"


@pytest.mark.parametrize("mark", ["<|endoftext|>", ""])
def test_five_programs_are_told_with_the_mark_where_it_is_needed(mark):
    subject = Subject("炉", "qwen3", 1, 2, 3, "fp32", mark, "", "0.1.0")
    text = card(subject, Recorded("x"))
    for program in ("transformers", "vllm serve 炉", "llama", "ollama create 炉", "danlu"):
        assert program in text
    assert ("<|endoftext|>" in text) is bool(mark)
    assert "MARK" not in text
    assert "NAME" not in text
