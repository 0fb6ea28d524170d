"""`danlu finetune`: it learns to answer and to stop, resumes bit for bit, and refuses what it cannot use."""

import json
import math
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tiny_run import TINY, assert_same_run, settings

from danlu import log
from danlu.checkpoint import load_model, load_tokenizer, resolve, save_checkpoint
from danlu.cli import main
from danlu.commands.train_ import train
from danlu.configure import read_tables
from danlu.data.chat import Message
from danlu.data.template import ChatTemplate
from danlu.infer.generate import generate
from danlu.infer.sampling import Sampling

ANSWERS = {"长江": "一条河。", "北京": "一座城。", "小熊": "一只熊。"}


@pytest.fixture(scope="module")
def base(shards_folder, tmp_path_factory):
    wide = {**TINY["model"], "hidden_size": 64, "intermediate_size": 96}
    config = settings(shards_folder, tmp_path_factory.mktemp("runs") / "base", "30 steps", context=64, model=wide)
    return Path(train(config)["run"])


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    rng, rows = random.Random(0), []
    for number in range(120):
        name = rng.choice(list(ANSWERS))
        rows.append({"question": f"{name}是什么？{number}", "answer": ANSWERS[name]})
    path = tmp_path_factory.mktemp("chat") / "qa.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path


def tuned(base, questions, out, *more, budget="6 steps"):
    flags = [
        "--data",
        questions,
        "--out",
        out,
        "--budget",
        budget,
        "--batch-tokens",
        "256",
        "--validation-share",
        "0.2",
        "--eval-every",
        "10",
        "--sample-tokens",
        "0",
        "--device.precision",
        "fp32",
        "--device.attention",
        "sdpa",
    ]
    return ["finetune", *map(str, (base, *flags, *more)), "--json"]


def printed(capsys, argv) -> dict:
    assert main(argv) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_it_learns_to_answer_and_to_stop(base, questions, tmp_path, capsys, shards_folder):
    flags = ["--optim.lr", "3e-3", "--optim.muon-lr", "0.02", "--replay", shards_folder, "--replay-share", "0.1"]
    done = printed(capsys, tuned(base, questions, tmp_path / "run", *flags, budget="80 steps"))
    evaluations = [row for row in log.read_metrics(Path(done["run"])) if row["kind"] == "eval"]
    assert evaluations[-1]["loss_nats_per_token"] < 0.5 * evaluations[0]["loss_nats_per_token"]
    assert all(row["text_bits_per_char"] > 0 for row in evaluations)
    folder = Path(done["checkpoint"])
    tokenizer, model = load_tokenizer(folder), load_model(folder)
    asked = ChatTemplate(tokenizer).prompt([Message("user", "长江是什么？7")])
    answer = generate(model, tokenizer, asked, sampling=Sampling(temperature=0.0), max_new_tokens=30)
    assert answer.stopped == ["eos"]
    generation = json.loads((folder / "generation_config.json").read_text())
    marks = tokenizer.special_ids
    assert generation["eos_token_id"] == [marks["<|im_end|>"], marks["<|endoftext|>"]]
    assert json.loads((folder / "tokenizer_config.json").read_text())["eos_token"] == "<|im_end|>"


@pytest.fixture(scope="module")
def preferences(tmp_path_factory):
    """Two answers to each question, of which the one that ends politely is chosen."""
    rng, rows = random.Random(1), []
    for number in range(120):
        name = rng.choice(list(ANSWERS))
        answers = {"chosen": ANSWERS[name] + "谢谢！", "rejected": ANSWERS[name] + "不说。"}
        rows.append({"prompt": f"{name}是什么？{number}", **answers})
    path = tmp_path_factory.mktemp("chat") / "pairs.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path


WAYS = {
    "sft": [],
    "lora": ["--adapter", "lora", "--lora.rank", "4"],
    "dpo": ["--objective", "dpo"],
    "dpo with lora": ["--objective", "dpo", "--adapter", "lora"],
    "distill": ["--objective", "distill", "--distill.teacher"],
}


def way(name, base):
    return [*WAYS[name], *([base] if name == "distill" else [])]


@pytest.mark.parametrize("name", WAYS)
def test_a_run_that_was_cut_short_ends_with_the_same_bits(base, questions, preferences, tmp_path, capsys, name):
    data = preferences if "dpo" in name else questions
    whole = printed(capsys, tuned(base, data, tmp_path / "whole", *way(name, base)))
    cut = printed(capsys, tuned(base, data, tmp_path / "cut", *way(name, base)))
    run = Path(cut["run"])
    (run / "summary.json").unlink()
    newest = sorted((run / "checkpoints").iterdir())[-1]
    shutil.rmtree(newest)
    again = printed(capsys, ["finetune", str(run), "--resume", "--json"])
    assert again["resumed_at"] is not None
    assert again["resumed_at"] < again["step"]
    assert_same_run(whole, again)


@pytest.mark.slow
@pytest.mark.parametrize("name", WAYS)
def test_killed_at_any_moment_it_ends_with_the_same_bits(base, questions, preferences, tmp_path, capsys, name):
    """SIGKILL twice, in the midst of steps, saves and evaluations; the third start gets through."""
    data = preferences if "dpo" in name else questions
    flags = [*way(name, base), "--checkpoint-every", "1"]
    whole = printed(capsys, tuned(base, data, tmp_path / "whole", *flags, budget="40 steps"))
    command = [
        sys.executable,
        "-m",
        "danlu",
        *tuned(base, data, tmp_path / "cut", *flags, budget="40 steps"),
        "--resume",
    ]
    metrics, rng = tmp_path / "cut" / "metrics.jsonl", random.Random(name)
    for steps in sorted(rng.sample(range(3, 35), 2)):
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while not metrics.is_file() or metrics.read_text().count('"kind": "train"') < steps:
            assert child.poll() is None
            time.sleep(rng.uniform(0.001, 0.02))
        child.kill()
        child.wait()
    done = printed(capsys, ["finetune", str(tmp_path / "cut"), "--resume", "--json"])
    assert done["resumed_at"]
    assert_same_run(whole, done)


def test_of_preferences_it_learns_to_tell_chosen_from_rejected(base, preferences, tmp_path, capsys):
    flags = ["--objective", "dpo", "--optim.lr", "1e-3", "--optim.muon-lr", "2e-3", "--device.attention", "blocked"]
    done = printed(capsys, tuned(base, preferences, tmp_path / "run", *flags, budget="30 steps"))
    first, *_, last = [row for row in log.read_metrics(Path(done["run"])) if row["kind"] == "eval"]
    machine = json.loads((Path(done["run"]) / "plan.json").read_text())["machine"]
    assert machine["attention"] == "sdpa"  # as the reference's
    assert (first["preferred"], first["kl_nats_per_token"]) == (0.5, pytest.approx(0, abs=1e-6))
    assert first["loss_nats_per_pair"] == pytest.approx(math.log(2), rel=1e-4)
    assert last["preferred"] > 0.95
    assert last["kl_nats_per_token"] > 0
    train = [row for row in log.read_metrics(Path(done["run"])) if row["kind"] == "train"]
    assert {"loss_nats_per_pair", "preferred", "margin"} < train[0].keys()
    assert "loss_nats_per_token" not in train[0]


def test_an_adapter_is_left_beside_the_merged_model(base, questions, tmp_path, capsys):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    flags = ["--adapter", "lora", "--optim.lr", "5e-3"]
    done = printed(capsys, tuned(base, questions, tmp_path / "run", *flags, budget="40 steps"))
    evaluations = [row for row in log.read_metrics(Path(done["run"])) if row["kind"] == "eval"]
    assert evaluations[-1]["loss_nats_per_token"] < 0.8 * evaluations[0]["loss_nats_per_token"]
    ids = torch.arange(20)[None]
    merged = AutoModelForCausalLM.from_pretrained(done["checkpoint"])
    start = load_model(base)
    beside = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(resolve(base)), done["adapter"])
    with torch.no_grad():
        torch.testing.assert_close(beside(ids).logits, merged(ids).logits, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(start(ids).logits_BTV, merged(ids).logits, atol=1e-2)


def test_a_teacher_is_followed(base, questions, tmp_path, capsys):
    teacher = printed(capsys, tuned(base, questions, tmp_path / "teacher", "--optim.lr", "3e-3", budget="40 steps"))
    flags = ["--objective", "distill", "--distill.teacher", teacher["run"], "--optim.lr", "3e-3"]
    done = printed(capsys, tuned(base, questions, tmp_path / "run", *flags, budget="40 steps"))
    train = [row for row in log.read_metrics(Path(done["run"])) if row["kind"] == "train"]
    assert train[-1]["kl_nats_per_token"] < 0.5 * train[0]["kl_nats_per_token"]


def test_the_same_keys_may_stand_in_a_toml_file(base, questions, tmp_path, capsys):
    path = tmp_path / "tune.toml"
    path.write_text(f'''checkpoint = "{base}"
data = "{questions}"
out = "{tmp_path / "run"}"
budget = "2 steps"
adapter = "lora"
[lora]
rank = 2
''')
    done = printed(capsys, ["finetune", str(path), "--batch-tokens", "256", "--validation-share", "0.2", "--json"])
    config = json.loads((Path(done["adapter"]) / "adapter_config.json").read_text())
    assert (config["r"], done["step"]) == (2, 2)
    path.write_text('checkpoint = "x"\nadaptor = "lora"\n')
    assert main(["finetune", str(path)]) == 2
    assert "unknown key `adaptor` (did you mean `adapter`?)" in capsys.readouterr().err


def test_objectives_that_cannot_be_met_are_one_line_each(base, questions, preferences, shards_folder, tmp_path, capsys):
    other = tmp_path / "other"
    shutil.copytree(resolve(base), other)
    (other / "manifest.json").unlink()
    tables = json.loads((other / "tokenizer.json").read_text())
    words = tables["model"]["vocab"]
    one, two = list(words)[5:7]
    words[one], words[two] = words[two], words[one]
    (other / "tokenizer.json").write_text(json.dumps(tables))
    for data, flags, message in (
        (questions, ["--objective", "dpo"], "is a conversation, not a preference"),
        (questions, ["--objective", "distill"], "objective distill and a teacher (--distill.teacher) need each other"),
        (questions, ["--objective", "distill", "--distill.teacher", other], "the teacher has another tokenizer"),
        (preferences, ["--objective", "dpo", "--replay", shards_folder], "Replay goes with sft and distill"),
        (questions, ["--dpo.kind", "ipo"], "dpo: is set, but sft does not use it"),
        (questions, ["--lora.rank", "4"], "lora: is set, but none does not use it"),
    ):
        assert main(tuned(base, data, tmp_path / "run", *flags)) == 2
        assert message in capsys.readouterr().err.strip().splitlines()[-1]
        assert not (tmp_path / "run").exists()


def test_a_run_that_was_moved_goes_on_from_anywhere(base, questions, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    whole = printed(capsys, tuned(base, questions, "whole", "--checkpoint-every", "2"))
    run = Path(printed(capsys, tuned(base, questions, "cut", "--checkpoint-every", "2"))["run"])
    (run / "summary.json").unlink()
    shutil.rmtree(sorted((run / "checkpoints").iterdir())[-1])
    run.rename("moved")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    again = printed(capsys, ["finetune", "../moved", "--resume", "--json"])
    assert again["resumed_at"] == 4
    monkeypatch.chdir(tmp_path)
    again = {key: value.removeprefix("../") if isinstance(value, str) else value for key, value in again.items()}
    assert_same_run(whole, again)


def test_conversations_cut_at_a_turn_are_what_is_asked(base, tmp_path, capsys):
    path = tmp_path / "long.jsonl"
    talk = [{"role": role, "content": f"{role[0]}{n}长江。"} for n in range(20) for role in ("user", "assistant")]
    rows = [{"messages": [{**talk[0], "content": f"问{number}"}, *talk[1:]]} for number in range(8)]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    flags = ["--too-long", "split", "--questions", "5", "--validation-share", "0.5"]
    assert main(tuned(base, path, tmp_path / "run", *flags, budget="1 steps")) == 0
    said = capsys.readouterr()
    assert json.loads(said.out.splitlines()[-1])["answers"]["sft"]["questions"] == 5
    assert "cut before a question 8" in said.err
    assert "5 held-out questions, base → sft: nats/token" in said.out


def test_a_run_stopped_while_packing_says_how_to_go_on(base, questions, tmp_path, capsys):
    printed(capsys, tuned(base, questions, tmp_path / "run", budget="1 steps"))
    for path in (tmp_path / "run").iterdir():
        if path.name != "turns":
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    assert main(["finetune", str(tmp_path / "run"), "--resume"]) == 2
    assert "was stopped before its run began. Repeat the command" in capsys.readouterr().err
    assert main(tuned(base, questions, tmp_path / "run")) == 2
    assert "Go on with it by --resume" in capsys.readouterr().err
    assert printed(capsys, tuned(base, questions, tmp_path / "run", "--resume", budget="1 steps"))["step"] == 1


def test_help_shows_the_rates_that_will_be_used(base, capsys):
    for flags, rate in (([], "0.001"), (["--adapter", "lora"], "0.002"), (["--objective", "dpo"], "0.0001")):
        with pytest.raises(SystemExit):
            main(["finetune", str(base), *flags, "--help"])
        shown = capsys.readouterr().out
        assert f"(default: {rate})" in shown[shown.index("--optim.lr") :][:300]


def test_a_run_with_an_adapter_needs_the_weights_it_stands_beside(base, questions, tmp_path, capsys):
    shutil.copytree(base, tmp_path / "base", symlinks=True)
    flags = ["--adapter", "lora", "--checkpoint-every", "2"]
    run = Path(printed(capsys, tuned(tmp_path / "base", questions, tmp_path / "run", *flags))["run"])
    (run / "summary.json").unlink()
    shutil.rmtree(sorted((run / "checkpoints").iterdir())[-1])
    start = resolve(tmp_path / "base")
    model = load_model(start)
    with torch.no_grad():
        model.embedding_weight.add_(1)
    tokenizer = load_tokenizer(start)
    shutil.rmtree(start)
    save_checkpoint(start, model, tokenizer)
    assert main(["finetune", str(run), "--resume"]) == 2
    assert "was trained with another base" in capsys.readouterr().err


def test_transformers_opens_the_result_and_its_template_asks_alike(base, questions, tmp_path, capsys):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = Path(printed(capsys, tuned(base, questions, tmp_path / "run"))["checkpoint"])
    theirs, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    asked = [{"role": "user", "content": "北京是什么？"}]
    ids = theirs.apply_chat_template(asked, add_generation_prompt=True, return_dict=False)
    assert ids == ChatTemplate(load_tokenizer(folder)).prompt([Message("user", "北京是什么？")])
    assert model.generation_config.eos_token_id == [theirs.eos_token_id, theirs.pad_token_id]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"text": "没有问题"}], "record 1: is of no known shape"),
        ([{"question": "一", "answer": " "}], "record 1: its turn 2, the assistant's, is empty"),
        ([{"prompt": "一", "chosen": "二", "rejected": "三"}], "is a preference"),
        ([{"question": "一", "answer": "长" * 900}], "do not fit into the context of 64 tokens"),
    ],
)
def test_what_cannot_be_learned_is_one_line_and_leaves_nothing(base, tmp_path, capsys, rows, message):
    path = tmp_path / "qa.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    assert main(tuned(base, path, tmp_path / "run")) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("error: ")
    assert message in said
    assert not (tmp_path / "run").exists()


def test_with_resume_a_pretraining_run_is_still_what_is_started_from(base, questions, tmp_path, capsys):
    done = printed(capsys, tuned(base, questions, tmp_path / "run", "--resume", budget="2 steps"))
    assert (done["run"], done["step"]) == (str(tmp_path / "run"), 2)


def test_records_passed_over_are_counted(base, questions, tmp_path, capsys):
    path = tmp_path / "qa.jsonl"
    bad = (
        '{"text": "没有问题"}',
        '{"prompt": "一", "chosen": "二", "rejected": "三"}',
        '{"question": "\\ud800", "answer": "二"}',
    )
    path.write_text(questions.read_text() + "\n".join(bad) + "\n")
    done = printed(capsys, tuned(base, path, tmp_path / "run", "--skip-bad", budget="1 steps"))
    assert json.loads((Path(done["run"]) / "data.json").read_text())["skipped"] == 3


@pytest.mark.slow
def test_the_builtin_conversations_are_named(base, tmp_path, capsys):
    done = printed(capsys, tuned(base, "demo-chat", tmp_path / "run", budget="1 steps"))
    data = json.loads((Path(done["run"]) / "data.json").read_text())
    assert (data["conversations"], data["dropped"]["copy of another"]) == (5_043, 47)
    assert data["sources"] == ["demo-chat"]


def test_a_missing_checkpoint_and_no_data_are_one_line_each(base, questions, tmp_path, capsys):
    assert main(["finetune", str(tmp_path / "none"), "--data", str(questions)]) == 2
    assert "there is no such folder" in capsys.readouterr().err
    assert main(["finetune", str(base)]) == 2
    assert "no conversations are named" in capsys.readouterr().err


def test_what_a_run_was_started_with_is_recorded(base, questions, tmp_path, capsys):
    run = Path(printed(capsys, tuned(base, questions, tmp_path / "run"))["run"])
    tables = read_tables(str(run))
    assert tables["objective"] == "sft"
    assert Path(tables["init"]).is_dir()
