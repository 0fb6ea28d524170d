"""A checkpoint folder: whole or absent under SIGKILL at every point, verified when read, at home in transformers."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import kill_points
import pytest
import torch
from safetensors.torch import load_file, save_file

from danlu import storage
from danlu.checkpoint import (
    TrainerState,
    load_model,
    load_tokenizer,
    load_trainer,
    newest_good,
    resolve,
    save_checkpoint,
)
from danlu.config import Qwen3Config
from danlu.errors import CheckpointError, OutputError, TokenizerError
from danlu.model import build_model
from danlu.tokenizer import Tokenizer

GOLDEN = Path(__file__).parent / "data" / "golden" / "blog_tiny.pt"
CONFIG = Qwen3Config(
    hidden_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, head_dim=16, intermediate_size=48
)


@pytest.fixture
def model(tokenizer):
    made = build_model(CONFIG, tokenizer.vocab_size, 64, seed=3)
    with torch.no_grad():
        for p in made.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    return made


@pytest.fixture
def folder(model, tokenizer, tmp_path):
    state = TrainerState({"step": 7}, {"momentum": torch.arange(4.0), "count": torch.tensor(3.0)})
    save_checkpoint(tmp_path / "ckpt", model, tokenizer, state)
    return tmp_path / "ckpt"


def same(a, b):
    return all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())


def test_what_is_saved_comes_back(model, tokenizer, folder):
    loaded = load_model(folder)
    assert same(model, loaded)
    assert (loaded.config, loaded.context) == (model.config, 64)
    assert load_tokenizer(folder).fingerprint == tokenizer.fingerprint
    state = load_trainer(folder)
    assert state.values == {"step": 7}
    assert torch.equal(state.tensors["momentum"], torch.arange(4.0))


def test_the_folder_has_what_others_look_for(folder, tokenizer):
    config = json.loads((folder / "config.json").read_text())
    assert (config["model_type"], config["architectures"]) == ("qwen3", ["Qwen3ForCausalLM"])
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"]
    generation = json.loads((folder / "generation_config.json").read_text())
    assert generation["eos_token_id"] == config["eos_token_id"] == tokenizer.eos_id
    assert generation["do_sample"] is True
    assert generation["temperature"] > 0
    assert json.loads((folder / "tokenizer_config.json").read_text())["tokenizer_class"] == "PreTrainedTokenizerFast"
    weights = load_file(folder / "model.safetensors")
    assert {t.dtype for t in weights.values()} == {torch.float32}
    assert "lm_head.weight" not in weights


def test_files_follow_the_umask(model, tokenizer, tmp_path):
    before = os.umask(0o027)
    try:
        save_checkpoint(tmp_path / "c", model, tokenizer)
    finally:
        os.umask(before)
    assert (tmp_path / "c").stat().st_mode & 0o777 == 0o750
    assert {p.stat().st_mode & 0o777 for p in (tmp_path / "c").iterdir()} == {0o640}


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "trainer/state.safetensors"])
@pytest.mark.parametrize("damage", ["alter", "truncate", "remove"])
def test_a_damaged_file_is_refused_by_name(folder, name, damage):
    path = folder / name
    data = path.read_bytes()
    if damage == "remove":
        path.unlink()
    else:
        path.write_bytes(data[:-1] + (bytes([data[-1] ^ 1]) if damage == "alter" else b""))
    load = load_tokenizer if "tokenizer" in name else load_trainer if "trainer" in name else load_model
    with pytest.raises((CheckpointError, TokenizerError), match=path.name.replace(".", r"\.")) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_an_edited_generation_config_only_warns(folder, capsys):
    (folder / "generation_config.json").write_text('{"temperature": 0.1}')
    load_model(folder)
    assert "generation_config.json" in capsys.readouterr().err


def test_a_damaged_checkpoint_of_a_run_offers_the_newest_good_one(model, tokenizer, tmp_path):
    checkpoints = tmp_path / "run" / "checkpoints"
    for step in (1, 2, 3):
        save_checkpoint(checkpoints / f"step-{step:08d}", model, tokenizer)
    (checkpoints / "step-00000003" / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"model\.safetensors.*newest good checkpoint is .*step-00000002"):
        load_model(checkpoints / "step-00000003")
    assert newest_good(checkpoints).name == "step-00000002"


def test_names_that_do_not_match_are_refused(folder):
    weights = load_file(folder / "model.safetensors")
    (folder / "manifest.json").unlink()
    for change in ("missing", "foreign", "shape"):
        changed = dict(weights)
        if change == "missing":
            changed.pop("model.norm.weight")
        elif change == "foreign":
            changed["stranger"] = torch.zeros(1)
        else:
            changed["model.norm.weight"] = torch.zeros(5)
        save_file(changed, folder / "model.safetensors")
        with pytest.raises(CheckpointError, match=r"model\.norm\.weight|stranger"):
            load_model(folder)


def test_a_pickled_folder_is_not_read(folder):
    (folder / "manifest.json").unlink()
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="pickled"):
        load_model(folder)


def test_a_run_folder_means_its_best_checkpoint(folder, tmp_path):
    (tmp_path / "latest").symlink_to("ckpt")
    assert resolve(tmp_path) == folder.resolve()
    with pytest.raises(CheckpointError, match="no such folder"):
        resolve(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match=r"config\.json"):
        resolve(GOLDEN.parent)


def test_a_run_without_a_checkpoint_says_how_to_go_on(tmp_path):
    (tmp_path / "run.toml").write_text("")
    (tmp_path / "latest").symlink_to("checkpoints/step-00000001")
    with pytest.raises(CheckpointError, match=r"run without a checkpoint.*danlu train .* --resume"):
        resolve(tmp_path)


def test_an_existing_folder_is_not_overwritten(folder, model):
    with pytest.raises(OutputError, match="exists"):
        save_checkpoint(folder, model)
    assert same(load_model(folder), model)


def test_transformers_opens_the_folder(folder, model, tokenizer):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder)
    ids = torch.randint(tokenizer.vocab_size, (2, 30), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(theirs(ids).logits, model(ids).logits_BTV, rtol=1e-4, atol=1e-4)
    assert transformers.AutoTokenizer.from_pretrained(folder)("长江")["input_ids"] == tokenizer.encode("长江")


@pytest.mark.parametrize("shard_size", ["1GB", "20KB"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_danlu_opens_what_transformers_writes(folder, model, tmp_path, shard_size, dtype):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size=shard_size)
    tolerance = 0 if dtype == torch.float32 else 1e-2
    for (name, a), b in zip(model.named_parameters(), load_model(tmp_path / "theirs").parameters(), strict=True):
        assert b.dtype == torch.float32
        torch.testing.assert_close(b, a, rtol=tolerance, atol=tolerance, msg=name)


def test_a_plain_tokenizer_folder_is_a_tokenizer_too(tokenizer, tokenizer_folder, tmp_path):
    assert load_tokenizer(tokenizer_folder).fingerprint == tokenizer.fingerprint
    tokenizer.write_files(tmp_path)  # as others make one: without a manifest
    assert load_tokenizer(tmp_path).fingerprint == tokenizer.fingerprint
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load_model(tokenizer_folder)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_a_damaged_tokenizer_folder_is_refused_by_name(tokenizer, tmp_path, name):
    tokenizer.save(tmp_path / "t")
    (tmp_path / "t" / name).unlink()
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        load_tokenizer(tmp_path / "t")


def test_a_checkpoint_that_lost_its_config_is_no_plain_tokenizer_folder(folder):
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"config\.json: is missing"):
        load_tokenizer(folder)


@pytest.mark.parametrize("value", ["320", None, 1.5, True, [320]])
def test_a_vocabulary_that_is_no_number_is_one_line(folder, value):
    (folder / "manifest.json").unlink()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": value}))
    for load in (load_model, load_tokenizer):
        with pytest.raises(CheckpointError, match=r"^[^\n]*config\.json[^\n]*vocab_size[^\n]*$"):
            load(folder)


@pytest.mark.parametrize("index", [{}, {"weight_map": ["x"]}, {"weight_map": {"model.norm.weight": ["x"]}}])
def test_an_index_that_names_no_files_is_one_line(folder, index):
    (folder / "manifest.json").unlink()
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="weight_map"):
        load_model(folder)


def test_a_tokenizer_larger_than_the_model_is_refused(model, tmp_path):
    save_checkpoint(tmp_path / "c", model, Tokenizer.load(GOLDEN.parent.parent / "minimind_tokenizer"))
    with pytest.raises(TokenizerError, match=r"6,400.*320"):
        load_tokenizer(tmp_path / "c")


CHILD = """
import os, pathlib, sys
import torch
point, target = int(sys.argv[1]), pathlib.Path(sys.argv[2])
from danlu.config import Qwen3Config
from danlu.model import build_model
from danlu.checkpoint import TrainerState, save_checkpoint
from danlu.tokenizer import Tokenizer
config = Qwen3Config(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1, head_dim=16,
                     intermediate_size=32)
tokenizer = Tokenizer.load(pathlib.Path(sys.argv[3]))
model = build_model(config, tokenizer.vocab_size, 32, seed=int(target.name[5:]))
state = TrainerState({"step": 1}, {"m": torch.zeros(3)})
import danlu.checkpoint, danlu.storage
from kill_points import counted
places = [(os, "fsync"), (os, "rename"), (os, "chmod"), (os, "open"), (os, "mkdir"), (os, "fdopen"),
          (danlu.checkpoint, "save_file"), (danlu.checkpoint, "_write_json"), (danlu.storage, "sha256_of")]
count = counted(places, point)
save_checkpoint(target, model, tokenizer, state)
print(count())
"""


def killed_at(point, target, tokenizer_folder):
    return subprocess.run(
        [sys.executable, "-c", CHILD, str(point), str(target), str(tokenizer_folder)],
        env=kill_points.ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_killed_at_every_point_of_a_save_a_good_checkpoint_remains(tokenizer_folder, tmp_path):
    """SIGKILL at each write, fsync, chmod and rename: the older folder stays, the new one is whole or absent."""
    checkpoints = tmp_path / "checkpoints"
    checkpoints.mkdir()
    done = killed_at(0, checkpoints / "step-00000001", tokenizer_folder)
    points = int(done.stdout)
    assert points > 30
    for point in range(1, points + 1):
        done = killed_at(point, checkpoints / "step-00000002", tokenizer_folder)
        assert done.returncode == -signal.SIGKILL, done.stderr
        newest = newest_good(checkpoints)
        assert newest is not None
        load_model(newest)
        if (checkpoints / "step-00000002").exists():
            assert newest.name == "step-00000002"
            for path in sorted((checkpoints / "step-00000002").rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() else path.unlink()
            (checkpoints / "step-00000002").rmdir()
    done = killed_at(0, checkpoints / "step-00000002", tokenizer_folder)
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in checkpoints.iterdir()) == ["step-00000001", "step-00000002"]


@pytest.mark.parametrize("point", [3, 11])
def test_killed_in_the_middle_of_a_save_the_older_checkpoint_stays(point, tokenizer_folder, tmp_path):
    killed_at(0, tmp_path / "step-00000001", tokenizer_folder)
    assert killed_at(point, tmp_path / "step-00000002", tokenizer_folder).returncode == -signal.SIGKILL
    assert newest_good(tmp_path).name == "step-00000001"
    storage.sweep(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"]


FULL_DISK = """
import pathlib, resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
from danlu.cli import main
sys.exit(main(["import", sys.argv[1], "--out", sys.argv[2]]))
"""


def test_no_room_for_a_file_is_one_clear_line_and_nothing_half_written(tmp_path):
    """A limit on file size stands in for a full disk: the write fails in the same place."""
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(GOLDEN), str(tmp_path / "c")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ")
    assert "space" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def _fill(disk, model, tokenizer):
    for step in range(2, 9):
        save_checkpoint(disk / f"step-{step:08d}", model, tokenizer)


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_really_full_disk(tmp_path, model, tokenizer):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(disk)], check=False)
    if mounted.returncode:
        pytest.skip("this system lets nobody mount a tmpfs")
    try:
        save_checkpoint(disk / "step-00000001", model, tokenizer)
        with pytest.raises(OutputError, match="space"):
            _fill(disk, model, tokenizer)
        assert newest_good(disk) is not None
        assert not list(disk.glob(".scratch-*"))
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_an_unwritable_place_is_one_line(model, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file"):
        save_checkpoint(tmp_path / "file" / "c", model)
