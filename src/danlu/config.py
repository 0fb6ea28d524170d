"""Settings: strict, frozen pydantic models of every TOML table. `danlu.configure` makes them of files and flags."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from danlu.errors import ConfigError
from danlu.types import Packing

BudgetUnit = Literal["steps", "tokens", "epochs", "minutes"]
_UNITS: dict[str, tuple[BudgetUnit, float]] = {
    "step": ("steps", 1),
    "steps": ("steps", 1),
    "token": ("tokens", 1),
    "tokens": ("tokens", 1),
    "epoch": ("epochs", 1),
    "epochs": ("epochs", 1),
    "s": ("minutes", 1 / 60),
    "second": ("minutes", 1 / 60),
    "seconds": ("minutes", 1 / 60),
    "min": ("minutes", 1),
    "minute": ("minutes", 1),
    "minutes": ("minutes", 1),
    "h": ("minutes", 60),
    "hour": ("minutes", 60),
    "hours": ("minutes", 60),
    "day": ("minutes", 1440),
    "days": ("minutes", 1440),
}
_SCALES = {"k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "B": 1e9}


class Budget(NamedTuple):
    """How long a run may be: an amount and its unit; times are in minutes."""

    amount: float
    unit: BudgetUnit


def parse_budget(text: str) -> Budget:
    """Read "300 steps", "20M tokens", "2 epochs", "10 min" or "8 h". Raises ConfigError for another unit."""
    number = text.strip().rstrip("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ ")
    word = text.strip()[len(number) :].strip()
    scale = 1.0
    if word not in _UNITS and word[:1] in _SCALES:
        scale, word = _SCALES[word[0]], word[1:].strip()
    if word not in _UNITS:
        raise ConfigError(
            f'budget "{text}": no known unit. Write "300 steps", "20M tokens", "2 epochs", "60 s", "10 min" or "8 h"'
        )
    try:
        amount = float(number.replace(",", "").replace("_", "")) * scale
    except ValueError:
        raise ConfigError(
            f'budget "{text}": {number!r} is no number. Write "300 steps", "20M tokens" or "10 min"'
        ) from None
    unit, factor = _UNITS[word]
    if not 0 < amount < float("inf"):
        raise ConfigError(f'budget "{text}": must be more than 0')
    return Budget(amount * factor, unit)


Objective = Literal["pretrain", "sft", "dpo", "distill"]


class Table(BaseModel):
    """Base of every TOML table: unknown keys are errors, types are not guessed, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class ModelTable(Table):
    """Base of the families' tables."""

    def architecture(self) -> dict[str, Any]:
        """Return what the weights depend on: two models with one architecture take each other's weights."""
        return self.model_dump(mode="json", exclude={"dropout", "initialization"})


class Qwen3Config(ModelTable):
    """The default family: Qwen3's mathematics and names (RMSNorm, RoPE, QK-norm, SwiGLU, GQA, tied)."""

    model_type: Literal["qwen3"] = "qwen3"
    hidden_size: int = Field(default=256, gt=0, description="width of the residual stream")
    num_hidden_layers: int = Field(default=6, gt=0, description="blocks")
    num_attention_heads: int = Field(default=4, gt=0, description="query heads")
    num_key_value_heads: int = Field(default=4, gt=0, description="key and value heads; divides the query heads")
    head_dim: int = Field(default=64, gt=0, multiple_of=2, description="channels of one head; even, for RoPE")
    intermediate_size: int = Field(default=768, gt=0, description="width of the SwiGLU feed-forward")
    rope_theta: float = Field(default=10_000.0, gt=0, description="base of the rotary angles")
    rms_norm_eps: float = Field(default=1e-6, gt=0, description="added to the mean square in RMSNorm")
    tie_word_embeddings: bool = Field(default=True, description="one matrix for the embedding and the output layer")

    @model_validator(mode="after")
    def _heads_divide(self) -> Qwen3Config:
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_key_value_heads {self.num_key_value_heads} does not divide "
                f"num_attention_heads {self.num_attention_heads}"
            )
        return self


class ArticleConfig(ModelTable):
    """The article's family: sinusoidal positions, small separate heads, post-LayerNorm, ReLU, untied."""

    model_type: Literal["danlu_article"] = "danlu_article"
    hidden_size: int = Field(default=512, gt=0, multiple_of=2, description="width of the residual stream")
    num_hidden_layers: int = Field(default=8, gt=0, description="blocks")
    num_attention_heads: int = Field(default=16, gt=0, description="heads; divides hidden_size")
    dropout: float = Field(
        default=0.1, ge=0, lt=1, description="share dropped of attention weights and both sub-layers' outputs"
    )
    initialization: Literal["xavier", "torch"] = Field(default="xavier", description="torch: the layers' own defaults")

    @model_validator(mode="after")
    def _heads_divide(self) -> ArticleConfig:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"num_attention_heads {self.num_attention_heads} does not divide hidden_size {self.hidden_size}"
            )
        return self


ModelConfig = Qwen3Config | ArticleConfig


class OptimConfig(Table):
    """Muon for the matrices of the blocks, AdamW for the rest; or AdamW for all."""

    name: Literal["muon", "adamw"] = Field(
        default="muon", description="muon (AdamW for what is no matrix) or adamw for all"
    )
    lr: float = Field(default=3e-3, gt=0, description="peak learning rate of AdamW")
    muon_lr: float = Field(default=0.02, gt=0, description="peak learning rate of Muon")
    muon_steps: int = Field(default=5, ge=1, le=5, description="steps of Muon's orthogonalisation; fewer cost less")
    betas: tuple[float, float] = Field(default=(0.9, 0.95), strict=False, description="AdamW's decay rates")
    eps: float = Field(default=1e-8, gt=0, description="AdamW's epsilon")
    momentum: float = Field(default=0.95, ge=0, lt=1, description="Muon's momentum")
    weight_decay: float = Field(default=0.0, ge=0, description="decoupled weight decay, times the learning rate")
    decay_all: bool = Field(default=False, description="decay vectors and biases too, as the article does")
    clip: float = Field(default=1.0, ge=0, description="largest global gradient norm; 0 does not clip")


class StretchConfig(Table):
    """Until a share of the run is done, other windows and batches than the run's own."""

    until: float = Field(gt=0, lt=1, description="share of all steps")
    window: int = Field(gt=0, description="tokens a row; divides context")
    batch_tokens: int = Field(gt=0, description="tokens a step; a multiple of context")


class ScheduleConfig(Table):
    """The learning rate over the run: linear warm-up, then the shape, down to a floor."""

    shape: Literal["wsd", "linear", "cosine", "constant"] = Field(
        default="wsd", description="wsd: warm-up, stable, decay"
    )
    warmup_steps: int = Field(default=40, ge=0, description="steps of linear warm-up")
    decay: float = Field(default=0.5, gt=0, le=1, description="share of all steps in wsd's decay")
    floor: float = Field(default=0.0, ge=0, lt=1, description="share of the peak that the rate ends at")
    stretches: tuple[StretchConfig, ...] = Field(
        default=(), strict=False, description="shorter windows, smaller batches first"
    )
    least_steps: int = Field(
        default=0,
        ge=0,
        description="where the budget allows fewer steps, batches are halved, to 2,048 tokens at least; 0: never",
    )


class LoraConfig(Table):
    """The adapter's size."""

    rank: int = Field(default=16, gt=0, description="columns of the narrow matrices")
    alpha: float = Field(default=32.0, gt=0, description="what they add is scaled by alpha / rank")


class DpoConfig(Table):
    """How two answers to one question are compared."""

    kind: Literal["dpo", "ipo", "simpo"] = Field(
        default="dpo", description="dpo; ipo: a square, a token's mean; simpo: a token's mean, without a reference"
    )
    beta: float = Field(default=0.1, gt=0, description="larger: closer to the reference (simpo: sharper)")
    gamma: float = Field(default=0.5, ge=0, description="simpo: how far the chosen answer must be ahead")


class DistillConfig(Table):
    """A larger model teaches."""

    teacher: Path | None = Field(
        default=None, strict=False, description="folder of a model, danlu's or Hugging Face's, with the same tokenizer"
    )
    temperature: float = Field(default=2.0, gt=0, description="softens both distributions")
    hard_share: float = Field(default=0.5, ge=0, le=1, description="share of the text's own loss")


class DeviceConfig(Table):
    """Where and how to compute; what is `auto` or 0 is measured at the start and recorded in the plan."""

    name: Literal["auto", "cpu", "cuda", "mps"] = Field(default="auto", description="auto: cuda, then mps, then cpu")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        default="auto", description="auto: a short timed matrix product decides"
    )
    attention: Literal["auto", "sdpa", "blocked", "fused"] = Field(
        default="auto",
        description="CPU kernel in training; fused: whole blocks, compiled (extra [fast]), in less memory; "
        "auto: a trial decides. Name one where two runs must be equal",
    )
    blas: Literal["auto", "torch", "numpy"] = Field(
        default="auto",
        description="whose matrix products fused takes in fp32: PyTorch's, or those of numpy's OpenBLAS; "
        "auto: a trial decides. Name one where two runs must be equal",
    )
    threads: int = Field(default=0, ge=0, description="CPU threads; 0: the physical cores")
    micro_batch_tokens: int = Field(default=0, ge=0, description="tokens computed at once; 0: chosen at the start")
    compile: Literal["auto", "on", "off"] = Field(
        default="auto", description="torch.compile; auto: on an accelerator, where a trial shows that a long run gains"
    )
    deterministic: bool = Field(default=False, description="CUDA: only deterministic kernels, for bit-exact resume")


class RunConfig(Table):
    """What every run is set by, whatever it learns from."""

    adapter: Literal["none", "lora"] = Field(
        default="none", description="lora: the weights stay, narrow matrices beside them learn"
    )
    replay: Path | None = Field(
        default=None, strict=False, description="sft, distill: shard folder of pretraining text that goes on being read"
    )
    replay_share: float = Field(default=0.2, ge=0, lt=1, description="its share of all rows")
    seed: int = Field(default=0, ge=0, description="of initialisation, shuffling and dropout")
    batch_tokens: int = Field(default=4096, gt=0, description="tokens a step; a multiple of context")
    eval_every: int = Field(default=0, ge=0, description="steps between evaluations; 0: ten over the run")
    eval_tokens: int = Field(default=32_768, gt=0, description="validation tokens of an evaluation during the run")
    checkpoint_every: int = Field(
        default=0, ge=0, description="steps between checkpoints; 0: ten over the run, and one every ten minutes"
    )
    keep_checkpoints: int = Field(default=2, gt=0, description="checkpoints kept, besides the best")
    sample_tokens: int = Field(default=60, ge=0, description="tokens of each prompt's continuation; 0: none")
    sample_every: int = Field(default=0, ge=0, description="steps between samples; 0: at every evaluation")
    questions: int = Field(
        default=100, ge=0, description="fine-tuning: held-out questions answered at the end, before and after; 0: none"
    )
    optim: OptimConfig = OptimConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    device: DeviceConfig = DeviceConfig()
    lora: LoraConfig = LoraConfig()
    dpo: DpoConfig = DpoConfig()
    distill: DistillConfig = DistillConfig()

    @field_validator("budget", check_fields=False)
    @classmethod
    def _known_unit(cls, text: str) -> str:
        parse_budget(text)
        return text


class FinetuneConfig(RunConfig):
    """A fine-tuning run, from conversations: what `danlu finetune` packs, and how its run is trained."""

    checkpoint: Path | None = Field(default=None, strict=False, description="checkpoint or run folder to start from")
    data: tuple[str, ...] = Field(
        default=(),
        strict=False,
        description="conversations: files, folders, globs (.jsonl, .json, .parquet), demo-chat",
    )
    objective: Literal["sft", "dpo", "distill"] = Field(
        default="sft", description="sft: the assistant's words; dpo: preferences; distill: a teacher's distribution"
    )
    out: Path = Field(default=Path("tuned"), strict=False, description="run folder to make")
    budget: str = Field(default="2 epochs", description='how long: "300 steps", "2 epochs", "10 min"')
    validation_share: float = Field(default=0.05, gt=0, lt=1, description="share of the conversations held out")
    too_long: Literal["drop", "split"] = Field(
        default="drop", description="a conversation longer than the context: dropped, or cut before a question; counted"
    )
    prompts: tuple[str, ...] = Field(
        default=("你好，你是谁？",), strict=False, description="questions answered by every sample"
    )

    @field_validator("data", mode="before")
    @classmethod
    def _one_is_enough(cls, data: Any) -> Any:
        return (data,) if isinstance(data, str) else data


class TrainConfig(RunConfig):
    """A training run. Every key has a default but `data`."""

    preset: str | None = Field(default=None, description="named recipe this run started from")
    data: Path | None = Field(default=None, strict=False, description="shard folder that `danlu prepare` made")
    out: Path = Field(default=Path("run"), strict=False, description="run folder to make")
    init: Path | None = Field(default=None, strict=False, description="checkpoint folder to start from")
    objective: Objective = Field(
        default="pretrain",
        description="pretrain: every token of the text; sft: the assistant's words; dpo: the preferred answer; "
        "distill: a teacher's distribution",
    )
    budget: str = Field(
        default="10 min", description='how long: "300 steps", "20M tokens", "2 epochs", "10 min", "8 h"'
    )
    embedding: Literal["random", "bigrams"] = Field(
        default="random", description="how it starts; bigrams: from what follows what in the training text"
    )
    context: int = Field(default=512, gt=1, description="longest window, in tokens")
    packing: Packing = Field(
        default="packed", description="packed: windows over the joined documents; padded: a document a row"
    )
    document_mask: Literal[True, False, "auto"] = Field(
        default=False, description="packed: attend only within a document; auto: on a CPU, where that costs nothing"
    )
    prompts: tuple[str, ...] = Field(default=("珠穆朗玛峰是",), strict=False, description="continued by every sample")
    model: Annotated[ModelConfig, Field(discriminator="model_type")] = Qwen3Config()

    @model_validator(mode="before")
    @classmethod
    def _default_family(cls, tables: Any) -> Any:
        """A [model] table that names no family means the default one."""
        if isinstance(tables, dict) and isinstance(tables.get("model"), dict):
            return {**tables, "model": {"model_type": Qwen3Config().model_type, **tables["model"]}}
        return tables

    @model_validator(mode="after")
    def _goes_together(self) -> TrainConfig:
        if self.adapter != "none" and self.init is None:
            raise ValueError("adapter: stands beside the weights of a model. Name its folder: --init")
        if self.objective == "dpo" and self.replay is not None:
            raise ValueError("objective dpo: reads pairs alone. Replay goes with sft and distill")
        for table, goes_with in (("dpo", self.objective), ("lora", self.adapter)):
            if goes_with != table and getattr(self, table) != type(self).model_fields[table].default:
                flag = f"--adapter {table}" if table == "lora" else f"--objective {table}"
                raise ValueError(f"{table}: is set, but {goes_with} does not use it. Add {flag}, or leave it out")
        if (self.objective == "distill") != (self.distill.teacher is not None):
            raise ValueError("objective distill and a teacher (--distill.teacher) need each other")
        if self.objective != "pretrain" and any(s.window != self.context for s in self.schedule.stretches):
            raise ValueError(f"objective {self.objective}: rows hold whole conversations, so no window is shorter")
        return self

    @model_validator(mode="after")
    def _batches_fit(self) -> TrainConfig:
        for where, window, batch_tokens in [
            ("", self.context, self.batch_tokens),
            *((f"schedule.stretches.{i}.", s.window, s.batch_tokens) for i, s in enumerate(self.schedule.stretches)),
        ]:
            if batch_tokens % self.context:
                what = f"{where}batch_tokens {batch_tokens:,} is no multiple of context {self.context:,}"
                raise ValueError(f"{what}: a step takes whole blocks. Change --{where}batch-tokens or --context")
            if self.context % window:
                what = f"{where}window {window:,} does not divide context {self.context:,}"
                raise ValueError(f"{what}. Change --{where}window or --context")
        untils = [s.until for s in self.schedule.stretches]
        if untils != sorted(set(untils)):
            raise ValueError("schedule.stretches: each `until` must be larger than the one before")
        if self.packing == "padded" and (self.schedule.stretches or self.document_mask is True):
            raise ValueError('packing "padded" goes with neither schedule.stretches nor document_mask')
        return self
