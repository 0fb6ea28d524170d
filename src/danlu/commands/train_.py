"""`danlu train`: put shards, model, evaluation and sampling together and hand them to the trainer."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from danlu import log, storage
from danlu.commands import finish
from danlu.config import TrainConfig
from danlu.configure import read_config, read_tables
from danlu.errors import CheckpointError, ConfigError, DataError, OutputError, TokenizerError

if TYPE_CHECKING:
    from danlu.data.batches import Blocks
    from danlu.model import Model
    from danlu.tokenizer import Tokenizer
    from danlu.train.objectives import Objective
    from danlu.train.trainer import Evaluate, Sample

USAGE = """usage: danlu train RUN.toml|PRESET|RUN_FOLDER [--resume] [--json] [--KEY VALUE …]

RUN.toml     settings; `preset = "nano"` starts from a preset
PRESET       {presets}
RUN_FOLDER   with --resume: go on with what was recorded there
--resume     go on from the newest good checkpoint of the run folder, bit for bit; start if there is none
--json       print one JSON object as the last line

Every key of the settings is a flag (danlu train nano --help shows them all with their values):
  danlu train nano --data shards --out runs/nano --budget "10 min" --optim.lr 2e-3"""


def run(argv: list[str]) -> int:
    """Parse, train, print."""
    flags = [a for a in argv if a not in ("--json", "--resume")]
    if not flags or flags[0] in ("-h", "--help"):
        from danlu.configure import preset_names

        print(USAGE.format(presets=", ".join(preset_names())))
        return 0
    source, *rest = flags
    if source.startswith("-"):
        raise ConfigError(f"danlu train: name a preset, a TOML file or a run folder before {source}")
    tables = read_tables(source)
    if (Path(source) / "run.toml").is_file():
        tables["out"] = source
    config = read_config(TrainConfig, tables, rest, f"danlu train {source}")
    resume = "--resume" in argv
    if resume and not any((config.out / "checkpoints").glob("step-*")):
        log.say(f"{config.out}: holds no checkpoint, so this run starts at its first step")
    done = train(config, resume)
    status = finish(done, finished_text(done), "--json" in argv)
    return status if done["finished"] else 130


def train(config: TrainConfig, resume: bool = False) -> dict[str, Any]:
    """Train as `config` says and return what `danlu train --json` prints.

    Raises DanluError's subclasses for whatever a user can mend: a missing shard folder, an existing run
    folder, a checkpoint of another model, a full disk.
    """
    if not isinstance(config, TrainConfig):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigError("danlu.train takes settings: danlu.train(danlu.TrainConfig(data=…, out=…, budget=…))")
    from danlu.evaluate.report import write_report
    from danlu.train.run import open_run
    from danlu.train.trainer import Trainer

    if config.objective == "pretrain":
        material = _material_of_text(config)
    else:
        from danlu.commands.tuning import material_of_conversations

        material = material_of_conversations(config)
    model = _model(config, material.blocks, material.tokenizer)
    is_new = not config.out.exists()
    finished = open_run(config, resume)
    if finished is not None:
        return _complete(config, finished)
    storage.write_json(config.out / "data.json", material.manifest)
    trainer = Trainer(
        config,
        material.blocks,
        model,
        material.tokenizer,
        material.objective,
        start=material.start,
        evaluate=material.evaluate,
        sample=material.sample,
        on_checkpoint=write_report,
    )
    try:
        done = asdict(trainer.fit())
    except (ConfigError, DataError, OutputError):
        if is_new and not trainer.run.begun:  # what cannot be run leaves nothing behind
            shutil.rmtree(config.out, ignore_errors=True)
        raise
    write_report(config.out)
    return _complete(config, done)


def _complete(config: TrainConfig, done: dict[str, Any]) -> dict[str, Any]:
    """Add what a fine-tuning run leaves besides: its adapter's folder, and its answers before and after."""
    adapter = Path(done["checkpoint"]) / "adapter"
    done |= {"adapter": str(adapter)} if adapter.is_dir() else {}
    if config.objective != "pretrain" and config.questions and done["finished"]:
        from danlu.commands.comparing import compare

        done["answers"] = compare(config, config.questions)
    return done


@dataclass(frozen=True)
class Material:
    """What a run learns from, and how it is judged. `tokenizer` is the one that its checkpoints keep."""

    blocks: Blocks
    tokenizer: Tokenizer
    manifest: dict[str, Any]
    evaluate: Evaluate
    sample: Sample
    start: Callable[[Model], object] | None = None
    objective: Objective | None = None


def _material_of_text(config: TrainConfig) -> Material:
    from danlu.data.shards import open_shards
    from danlu.evaluate.loss import ValidationSet
    from danlu.tokenizer import Tokenizer
    from danlu.train.embedding import start_from_bigrams

    if config.data is None:
        raise ConfigError("data: no shard folder is named. Make one with danlu prepare, then pass --data FOLDER")
    shards = open_shards(config.data)
    tokenizer = Tokenizer.load(shards.tokenizer_folder)
    validation = ValidationSet(shards, tokenizer, config.eval_tokens)
    is_fresh = config.init is None and config.embedding == "bigrams"
    return Material(
        shards,
        tokenizer,
        shards.manifest,
        evaluate=lambda model: validation.score(model, config.context).as_dict(),
        sample=_sampler(config, tokenizer),
        start=(lambda model: start_from_bigrams(model, shards.split("train"))) if is_fresh else None,
    )


def _model(config: TrainConfig, blocks: Blocks, tokenizer: Tokenizer) -> Model:
    from danlu.checkpoint import load_model, load_tokenizer
    from danlu.model import build_model
    from danlu.train.devices import seed_for

    if config.init is None:
        return build_model(config.model, blocks.vocab_size, config.context, seed_for(config.seed, "model"))
    if not config.init.exists():
        raise CheckpointError(
            f"{config.init}: the model this run starts from is not there. Put it back, or name it in init"
        )
    begun = load_model(config.init)
    context = begun.context if config.objective == "dpo" else config.context  # whose rows hold two of them
    model = build_model(config.model, blocks.vocab_size, context)
    if (begun.config.architecture(), begun.vocab_size) != (config.model.architecture(), blocks.vocab_size):
        raise CheckpointError(
            f"{config.init}: its architecture is not [model] of this run. Use the settings it was made with"
        )
    model.load_state_dict(begun.state_dict())
    if load_tokenizer(config.init).fingerprint != tokenizer.fingerprint:
        raise TokenizerError(
            f"{config.init}: has another tokenizer than the shards in {config.data}. "
            f"Repack: danlu prepare … --tokenizer {config.init} --out <folder>"
        )
    if config.adapter == "lora":
        _attach_adapter(model, config, config.init)
    return model


def _attach_adapter(model: Model, config: TrainConfig, base: Path) -> None:
    import torch

    from danlu.checkpoint import resolve, weights_sha256
    from danlu.model.lora import Adapter, attach
    from danlu.train.devices import seed_for

    adapter = Adapter(config.lora.rank, config.lora.alpha, str(resolve(base).absolute()), weights_sha256(base))
    attach(model, adapter, torch.Generator().manual_seed(seed_for(config.seed, "adapter")))


def _sampler(config: TrainConfig, tokenizer: Tokenizer) -> Sample:
    from danlu.infer.generate import generate

    def sample(model: Model) -> list[tuple[str, str]]:
        if not config.sample_tokens:
            return []
        return [
            (
                prompt,
                generate(model, tokenizer, prompt, max_new_tokens=config.sample_tokens, seed=config.seed).texts[0],
            )
            for prompt in config.prompts
        ]

    return sample


def finished_text(done: dict[str, Any], verb: str = "train") -> str:
    """Return what a person is told of a run that ended or was stopped."""
    if not done["finished"]:
        return (
            f"stopped at step {done['step']:,}, saved in {done['checkpoint']}\n"
            f"go on with: danlu {verb} {done['run']} --resume"
        )
    return (
        f"step {done['step']:,}  {done['tokens']:,} tokens  {done['seconds']:.0f} s  "
        f"validation {done['bits_per_char']:.3f} bits/char  ->  {done['checkpoint']}\n"
        f"report: {done['run']}/report.html"
    )
