"""`import danlu.hf` teaches transformers' Auto classes the article family (`model_type: "danlu_article"`).

The qwen3 family needs none of this: transformers knows it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from danlu.errors import DanluError
from danlu.model.article import Article

try:
    from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
    from transformers.modeling_outputs import CausalLMOutput
except ImportError:
    raise DanluError("danlu.hf needs transformers: pip install transformers") from None


class DanluArticleConfig(PretrainedConfig):
    """The article family's `config.json`."""

    model_type = "danlu_article"


class DanluArticleForCausalLM(PreTrainedModel):
    """The article's model with transformers' interface: logits, and a loss where labels are given."""

    config_class = DanluArticleConfig
    base_model_prefix = "danlu"

    def __init__(self, config: DanluArticleConfig):
        super().__init__(config)
        self.danlu = Article.from_hf(config.to_dict(), "config.json")
        self.post_init()

    def forward(self, input_ids: Tensor, labels: Tensor | None = None, **_: Any) -> CausalLMOutput:
        """Return logits_BTV; with labels_BT (not shifted) also their mean loss in nats."""
        logits_BTV = self.danlu(input_ids).logits_BTV
        loss = None
        if labels is not None:
            loss = torch.nn.functional.cross_entropy(logits_BTV[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return CausalLMOutput(loss=loss, logits=logits_BTV)  # pyright: ignore[reportArgumentType]

    def _init_weights(self, module: torch.nn.Module) -> None:
        """Leave weights alone: they are always loaded."""


AutoConfig.register("danlu_article", DanluArticleConfig)
AutoModelForCausalLM.register(DanluArticleConfig, DanluArticleForCausalLM)
