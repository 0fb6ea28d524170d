"""LoRA beside PEFT itself: the same outputs, the same gradients, files that each reads of the other."""

import json

import pytest
import torch

from danlu import storage
from danlu.checkpoint import load_model, save_checkpoint
from danlu.cli import main
from danlu.config import ArticleConfig, Qwen3Config
from danlu.errors import CheckpointError, ConfigError
from danlu.model import build_model, lora
from danlu.train.casts import cast_once

SIZES = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 64,
}
IDS = torch.randint(90, (3, 17), generator=torch.Generator().manual_seed(3))


def adapted(base="base", seed=0, learned=True):
    model = build_model(Qwen3Config(**SIZES), 90, 32, seed=1)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()))
    lora.attach(model, lora.Adapter(4, 12.0, str(base)), torch.Generator().manual_seed(seed))
    if learned:
        with torch.no_grad():
            for tensor in lora.narrow_matrices(model).values():
                tensor += 0.1 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(tensor.numel()))
    return model


def plain(model):
    twin = build_model(Qwen3Config(**SIZES), 90, 32)
    twin.load_state_dict(lora.plain_state(model))
    return twin


@pytest.fixture
def saved(tmp_path):
    """A base folder, an adapted model of it, and the checkpoint that it leaves."""
    model = adapted(tmp_path / "base")
    untouched = build_model(Qwen3Config(**SIZES), 90, 32)
    untouched.load_state_dict({k: v for k, v in model.state_dict().items() if not k.endswith(lora.NARROW)})
    save_checkpoint(tmp_path / "base", untouched)
    save_checkpoint(tmp_path / "tuned", model)
    return model, tmp_path


def test_a_fresh_adapter_changes_nothing_and_freezes_the_rest():
    model = adapted(learned=False)
    torch.testing.assert_close(model(IDS).logits_BTV, plain(model)(IDS).logits_BTV)
    assert {name.rpartition(".")[2] for name, p in model.named_parameters() if p.requires_grad} == set(lora.NARROW)


def test_the_merged_model_and_generation_compute_the_same():
    model = adapted()
    expected = model(IDS).logits_BTV
    torch.testing.assert_close(plain(model)(IDS).logits_BTV, expected, rtol=1e-4, atol=1e-4)
    with torch.inference_mode(), model.frozen():
        torch.testing.assert_close(model(IDS).logits_BTV, expected, rtol=1e-4, atol=1e-4)


def test_gradients_equal_those_of_peft(saved):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model, folder = saved
    theirs = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(folder / "base"), folder / "tuned" / "adapter", is_trainable=True
    )
    labels = IDS.roll(-1, 1)
    logits = theirs(IDS).logits
    torch.testing.assert_close(model(IDS).logits_BTV, logits, rtol=1e-4, atol=1e-4)
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum").backward()
    model(IDS, labels=labels).nll_BT.sum().backward()
    ours = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    for name, p in theirs.named_parameters():
        if p.requires_grad:
            own = ours.pop(name.removeprefix("base_model.model.").removesuffix(".default.weight"))
            torch.testing.assert_close(own, p.grad, rtol=2e-3, atol=2e-4, msg=name)
    assert not ours
    assert all(p.grad is None for p in model.parameters() if not p.requires_grad)


def test_the_matrices_may_be_cast_once_a_step():
    model = adapted()
    model.compute_dtype = torch.bfloat16
    with cast_once(model):
        model(IDS, labels=IDS.roll(-1, 1)).nll_BT.sum().backward()
    assert {name.rpartition(".")[2] for name, p in model.named_parameters() if p.grad is not None} == set(lora.NARROW)


def test_an_adapter_folder_opens_as_the_merged_model(saved):
    _, folder = saved
    opened = load_model(folder / "tuned" / "adapter")
    torch.testing.assert_close(opened(IDS).logits_BTV, load_model(folder / "tuned")(IDS).logits_BTV)
    assert opened.adapter is None


def test_an_adapter_that_peft_wrote_opens_too(tmp_path):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    save_checkpoint(tmp_path / "base", build_model(Qwen3Config(**SIZES), 90, 32, seed=2))
    theirs = get_peft_model(
        AutoModelForCausalLM.from_pretrained(tmp_path / "base"),
        LoraConfig(r=3, lora_alpha=6, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM"),
    )
    theirs.save_pretrained(tmp_path / "adapter")
    with torch.no_grad():
        expected = theirs.eval()(IDS).logits
        torch.testing.assert_close(load_model(tmp_path / "adapter")(IDS).logits_BTV, expected, rtol=1e-4, atol=1e-4)


def test_an_adapter_of_another_model_is_one_clear_line(saved, capsys):
    _, folder = saved
    other = tmp = folder / "other"
    save_checkpoint(other, build_model(Qwen3Config(**{**SIZES, "hidden_size": 32}), 90, 32))
    path = folder / "tuned" / "adapter" / "adapter_config.json"
    config = json.loads(path.read_text()) | {"base_model_name_or_path": str(tmp)}
    path.write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="is an adapter for another model"):
        load_model(path.parent)
    path.write_text(json.dumps(config | {"base_model_name_or_path": "nowhere"}))
    assert main(["generate", str(path.parent), "长江"]) == 2
    assert "its model nowhere is not here" in capsys.readouterr().err


def test_a_model_whose_weights_have_changed_is_another_model(saved):
    _, folder = saved
    storage.write_json(folder / "tuned" / "adapter" / "base.json", {"model": "base", "sha256": "0" * 64})
    with pytest.raises(CheckpointError, match="for another model than"):
        load_model(folder / "tuned" / "adapter")


def test_the_article_family_takes_no_adapter():
    model = build_model(ArticleConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2), 90, 32)
    with pytest.raises(ConfigError, match="goes with the qwen3 family"):
        lora.attach(model, lora.Adapter(4, 8.0), torch.Generator())
