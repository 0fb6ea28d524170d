"""`import danlu.hf`: the article family at home in transformers, there and back."""

import pytest
import torch

from danlu.checkpoint import load_model, save_checkpoint
from danlu.config import ArticleConfig
from danlu.model import build_model

transformers = pytest.importorskip("transformers")
CONFIG = ArticleConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, dropout=0.2, initialization="torch")


@pytest.fixture
def model():
    return build_model(CONFIG, 97, 24).eval()


@pytest.fixture
def theirs(model, tmp_path):
    import danlu.hf  # noqa: F401  registers the family

    save_checkpoint(tmp_path / "ours", model)
    return transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours").eval()


def test_the_article_family_opens_in_transformers(model, theirs):
    ids = torch.randint(97, (2, 24))
    with torch.no_grad():
        out = theirs(ids, labels=ids)
        torch.testing.assert_close(out.logits, model(ids).logits_BTV, rtol=1e-5, atol=1e-5)
        nll = model(ids[:, :-1], labels=ids[:, 1:]).nll_BT
        torch.testing.assert_close(out.loss, nll.mean(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shard_size", ["1GB", "20KB"])
def test_danlu_reopens_an_article_folder_that_transformers_wrote(model, theirs, tmp_path, shard_size):
    with torch.no_grad():  # so that it is not the folder danlu wrote that is read back
        theirs.danlu.token_embedding.weight.add_(1)
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size=shard_size)
    back = load_model(tmp_path / "theirs")
    assert (back.config, back.vocab_size, back.context) == (CONFIG, 97, 24)
    expected = theirs.danlu.state_dict()
    assert back.state_dict().keys() == expected.keys() == model.state_dict().keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in back.state_dict().items())
    ids = torch.randint(97, (2, 24))
    with torch.no_grad():
        torch.testing.assert_close(back(ids).logits_BTV, theirs(ids).logits, rtol=1e-5, atol=1e-5)
