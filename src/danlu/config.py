"""Settings: strict, frozen pydantic models of every TOML table, and how a file, a preset and flags make one.

`read_config` starts from the file's `preset` (a TOML in `danlu/presets`), lays the file over it, checks the
result, and hands it to tyro as the default, so that `--optim.lr 1e-3` overrides and `--help` shows the file's
values.
"""

from __future__ import annotations

import contextlib
import difflib
import io
import json
import tomllib
import types
import typing
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

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
            f'budget "{text}": no known unit. Write "300 steps", "20M tokens", "2 epochs", "10 min" or "8 h"'
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


class Table(BaseModel):
    """Base of every TOML table: unknown keys are errors, types are not guessed, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Qwen3Config(Table):
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


class ArticleConfig(Table):
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


class DeviceConfig(Table):
    """Where and how to compute; what is `auto` or 0 is measured at the start and recorded in the plan."""

    name: Literal["auto", "cpu", "cuda", "mps"] = Field(default="auto", description="auto: cuda, then mps, then cpu")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        default="auto", description="auto: a short timed matrix product decides"
    )
    threads: int = Field(default=0, ge=0, description="CPU threads; 0: the physical cores")
    micro_batch_tokens: int = Field(default=0, ge=0, description="tokens computed at once; 0: chosen at the start")
    compile: bool = Field(default=False, description="torch.compile the model")
    deterministic: bool = Field(default=False, description="CUDA: only deterministic kernels, for bit-exact resume")


class TrainConfig(Table):
    """A training run. Every key has a default but `data`."""

    preset: str | None = Field(default=None, description="named recipe this run started from")
    data: Path | None = Field(default=None, strict=False, description="shard folder that `danlu prepare` made")
    out: Path = Field(default=Path("run"), strict=False, description="run folder to make")
    init: Path | None = Field(default=None, strict=False, description="checkpoint folder to start from")
    budget: str = Field(
        default="10 min", description='how long: "300 steps", "20M tokens", "2 epochs", "10 min", "8 h"'
    )
    seed: int = Field(default=0, ge=0, description="of initialisation, shuffling and dropout")
    context: int = Field(default=512, gt=1, description="longest window, in tokens")
    batch_tokens: int = Field(default=4096, gt=0, description="tokens a step; a multiple of context")
    packing: Packing = Field(
        default="packed", description="packed: windows over the joined documents; padded: a document a row"
    )
    document_mask: bool = Field(default=False, description="packed: attend only within a document")
    eval_every: int = Field(default=0, ge=0, description="steps between evaluations; 0: ten over the run")
    eval_tokens: int = Field(default=32_768, gt=0, description="validation tokens of an evaluation during the run")
    checkpoint_every: int = Field(default=0, ge=0, description="steps between checkpoints; 0: ten over the run")
    keep_checkpoints: int = Field(default=2, gt=0, description="checkpoints kept, besides the best")
    prompts: tuple[str, ...] = Field(
        default=("珠穆朗玛峰是",), strict=False, description="continued at every evaluation"
    )
    sample_tokens: int = Field(default=60, ge=0, description="tokens of each such continuation; 0: none")
    model: Annotated[ModelConfig, Field(discriminator="model_type")] = Qwen3Config()
    optim: OptimConfig = OptimConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    device: DeviceConfig = DeviceConfig()

    @model_validator(mode="before")
    @classmethod
    def _default_family(cls, tables: Any) -> Any:
        """A [model] table that names no family means the default one."""
        if isinstance(tables, dict) and isinstance(tables.get("model"), dict):
            return {**tables, "model": {"model_type": Qwen3Config().model_type, **tables["model"]}}
        return tables

    @field_validator("budget")
    @classmethod
    def _known_unit(cls, text: str) -> str:
        parse_budget(text)
        return text

    @model_validator(mode="after")
    def _batches_fit(self) -> TrainConfig:
        for where, window, batch_tokens in [
            ("", self.context, self.batch_tokens),
            *((f"schedule.stretches.{i}.", s.window, s.batch_tokens) for i, s in enumerate(self.schedule.stretches)),
        ]:
            if batch_tokens % self.context:
                raise ValueError(f"{where}batch_tokens {batch_tokens:,} is no multiple of context {self.context:,}")
            if self.context % window:
                raise ValueError(f"{where}window {window:,} does not divide context {self.context:,}")
        untils = [s.until for s in self.schedule.stretches]
        if untils != sorted(set(untils)):
            raise ValueError("schedule.stretches: each `until` must be larger than the one before")
        if self.packing == "padded" and (self.schedule.stretches or self.document_mask):
            raise ValueError('packing "padded" goes with neither schedule.stretches nor document_mask')
        return self


C = TypeVar("C", bound=BaseModel)
T = TypeVar("T")


def preset_names() -> list[str]:
    """Names of the recipes that come with danlu."""
    folder = resources.files("danlu") / "presets"
    return sorted(f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml"))


def read_preset(name: str) -> dict[str, Any]:
    """Return a preset's tables. Raises ConfigError, with a suggestion, for an unknown name."""
    if name not in preset_names():
        raise ConfigError(
            f"preset {name!r}: there is none{_suggest(name, preset_names())}. Known: {', '.join(preset_names())}"
        )
    text = (resources.files("danlu") / "presets" / f"{name}.toml").read_text(encoding="utf-8")
    return {**tomllib.loads(text), "preset": name}


def read_tables(source: str) -> dict[str, Any]:
    """Read a TOML file, a run folder's own or a preset into tables; the file's `preset` lies below it."""
    path = Path(source)
    if (path / "run.toml").is_file():
        path = path / "run.toml"
    if path.suffix != ".toml" and not path.is_file():
        return read_preset(source)
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read ({error.strerror}). Name a TOML file or a preset: {', '.join(preset_names())}"
        ) from None
    except ValueError as error:
        raise ConfigError(f"{path}: is no valid TOML ({error})") from None
    preset = tables.get("preset")
    base = read_preset(preset) if isinstance(preset, str) else {}
    return merge(base, tables)


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Lay `over` upon `base`, table by table; another `model_type` replaces the whole model table."""
    result = dict(base)
    for key, value in over.items():
        below = result.get(key)
        if isinstance(below, dict) and isinstance(value, dict) and _same_family(below, value):
            result[key] = merge(below, value)
        else:
            result[key] = value
    return result


def _same_family(below: dict[str, Any], over: dict[str, Any]) -> bool:
    return over.get("model_type") in (None, below.get("model_type"))


def check(config_class: type[C], tables: dict[str, Any], where: str) -> C:
    """Validate tables. Raises ConfigError naming `where`, the key and, for an unknown one, the nearest."""
    try:
        return config_class.model_validate(tables)
    except ValidationError as error:
        first = error.errors()[0]
        location = [str(p) for p in first["loc"] if p not in ("qwen3", "danlu_article")]
        key = ".".join(location)
        if first["type"] == "extra_forbidden":
            message = f"unknown key `{key}`{_suggest(location[-1], list(_all_keys(config_class)))}"
        else:
            message = (f"`{key}`: " if key else "") + first["msg"].removeprefix("Value error, ")
        raise ConfigError(f"{where}: {message}") from None


def read_config(config_class: type[C], tables: dict[str, Any], flags: Sequence[str], where: str) -> C:
    """Make a config of tables and command-line flags (`--a.b value`); `--help` shows the tables' values."""
    return parse_flags(config_class, flags, where, default=check(config_class, tables, where))


def parse_flags(options_class: type[T], flags: Sequence[str], prog: str, default: T | None = None) -> T:
    """Read flags into a dataclass or pydantic model with tyro. Raises ConfigError for wrong ones."""
    import tyro

    config = (tyro.conf.AvoidSubcommands, tyro.conf.FlagConversionOff) if default is not None else ()
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(options_class, default=default, args=list(flags), prog=prog, config=config)  # pyright: ignore
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        raise ConfigError(f"{prog}: " + (f"`{key}`: " if key else "") + message) from None
    except SystemExit as stop:
        if not stop.code:
            raise
        raise ConfigError(f"{prog}: {_one_line(said.getvalue())}. See {prog} --help") from None


def _one_line(box: str) -> str:
    """Flatten what tyro printed in a box to its first message."""
    lines = [line.strip("│╭╮╰╯─ \t") for line in box.splitlines()]
    noise = (
        "For full helptext",
        "Unrecognized options",
        "Parsing error",
        "Value error",
        "Argument helptext",
        "Required",
    )
    words = [line for line in lines if line and not line.startswith(noise)]
    unknown = [line for line in box.splitlines() if "Unrecognized options:" in line]
    first = [line.strip("│ ") for line in unknown] + words
    return "; ".join(line.rstrip(":.") for line in first[:3]) or "wrong options"


def to_toml(config: BaseModel) -> str:
    """Write a config as TOML that reads back as the same config; keys that are None are left out."""
    return "\n".join(_toml_lines(config.model_dump(mode="json", exclude_none=True), "")) + "\n"


def _toml_lines(table: dict[str, Any], path: str) -> Iterator[str]:
    tables = {k: v for k, v in table.items() if isinstance(v, dict)}
    arrays = {k: v for k, v in table.items() if isinstance(v, list) and v and isinstance(v[0], dict)}
    for key, value in table.items():
        if key not in tables and key not in arrays:
            yield f"{key} = {json.dumps(value, ensure_ascii=False)}"
    for key, value in tables.items():
        yield f"\n[{path}{key}]"
        yield from _toml_lines(value, f"{path}{key}.")
    for key, rows in arrays.items():
        for row in rows:
            yield f"\n[[{path}{key}]]"
            yield from _toml_lines(row, f"{path}{key}.")


def _all_keys(config_class: type[BaseModel]) -> Iterator[str]:
    for name, field in config_class.model_fields.items():
        yield name
        for inner in _table_classes(field.annotation):
            yield from _all_keys(inner)


def _table_classes(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if typing.get_origin(annotation) in (typing.Union, types.UnionType, tuple, Annotated):
        return [c for a in typing.get_args(annotation) for c in _table_classes(a)]
    return []


def _suggest(word: str, known: list[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f" (did you mean `{near[0]}`?)" if near else ""
