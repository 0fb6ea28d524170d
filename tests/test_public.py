"""The public surface: five names, each found where the documentation says, and no torch until one is used."""

import inspect
import subprocess
import sys

import pytest
import torch

import danlu
from danlu import errors

NAMES = ["DanluError", "TrainConfig", "generate", "load_model", "load_tokenizer", "train"]


def test_these_are_all_the_names():
    assert sorted(danlu.__all__) == NAMES
    assert danlu.DanluError is errors.DanluError
    assert all(hasattr(danlu, name) for name in NAMES)
    with pytest.raises(AttributeError, match="nonsense"):
        danlu.nonsense  # noqa: B018


@pytest.mark.parametrize("first", ["generate", "train"])
def test_every_name_is_a_function_whichever_is_used_first(first):
    """In a process of its own, and after the trainer was imported, as a first call of `danlu.train` does."""
    code = (
        f"import danlu; danlu.{first}; import danlu.train.trainer; from danlu import train; "
        f"wrong = [n for n in {NAMES[1:]} if not callable(getattr(danlu, n))]; assert not wrong, wrong; "
        "assert callable(train); assert danlu.train.trainer.Trainer"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_error_is_caught_by_the_public_one():
    tree = [e for _, e in inspect.getmembers(errors, inspect.isclass)]
    assert len(tree) > 5
    assert all(issubclass(e, danlu.DanluError) for e in tree)


def test_importing_danlu_imports_nothing_heavy():
    code = (
        "import sys, danlu; "
        "heavy = {'torch', 'numpy', 'tokenizers', 'tyro', 'pydantic', 'rich', 'transformers'} & set(sys.modules); "
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_star_import_brings_the_names():
    names: dict = {}
    exec("from danlu import *", names)
    assert set(NAMES) <= names.keys()


def test_the_names_work_together_as_the_readme_says(tokenizer, tmp_path):
    from danlu.checkpoint import save_checkpoint
    from danlu.config import Qwen3Config
    from danlu.model import build_model

    config = Qwen3Config(hidden_size=32, num_hidden_layers=1, intermediate_size=32)
    save_checkpoint(tmp_path / "c", build_model(config, tokenizer.vocab_size, 32), tokenizer)
    folder = str(tmp_path / "c")  # a string is a path too
    model, loaded = danlu.load_model(folder), danlu.load_tokenizer(folder)
    assert isinstance(model, torch.nn.Module)
    assert danlu.generate(model, loaded, "长江", max_new_tokens=3).prompt == "长江"
