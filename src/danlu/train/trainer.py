"""The one trainer: plan, step, evaluate, save, resume. What a step does follows from (plan, seed, step)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import nn

from danlu import log, storage
from danlu.checkpoint import TrainerState, load_trainer, load_weights
from danlu.config import TrainConfig, parse_budget
from danlu.data import batches
from danlu.data.batches import Blocks
from danlu.errors import CheckpointError, TrainingError
from danlu.model import Model
from danlu.tokenizer import Tokenizer
from danlu.train import devices, plan, schedule, start
from danlu.train.ahead import Ahead
from danlu.train.budget import Clock, TimeBudget
from danlu.train.display import Display, quality_text
from danlu.train.interrupt import StopRequest, stop_on_signals
from danlu.train.objectives import NextToken, Objective
from danlu.train.optim import Optimizer
from danlu.train.run import SUMMARY, RunFolder
from danlu.train.step import StepResult, split, train_step
from danlu.train.trial import Trial
from danlu.types import Batch, BatchPlan

Evaluate = Callable[[Model], Mapping[str, float]]
"""Held-out quality: at least loss_nats_per_token, bits_per_char, bits_per_byte."""
Sample = Callable[[Model], Sequence[tuple[str, str]]]
"""(prompt, continuation) pairs."""

_SKIPS_IN_A_ROW = 5
_SECONDS_BETWEEN_CHECKPOINTS = 600.0
"""The longest stretch of work that a crash may cost where `checkpoint_every` is not set; a save changes no weight."""


@dataclass(frozen=True, slots=True)
class Done:
    """Where a run stands when `fit` returns; `finished` is false after a signal."""

    run: str
    checkpoint: str
    best: str | None
    step: int
    resumed_at: int | None
    tokens: int
    loss_nats_per_token: float | None
    bits_per_char: float | None
    seconds: float
    finished: bool


@dataclass
class Progress:
    """What changes from step to step, besides weights and optimiser: all of it goes into a checkpoint."""

    step: int = 0
    tokens: int = 0
    skips_in_a_row: int = 0
    best: float | None = None
    quality: Mapping[str, float] | None = None


class Trainer:
    """Trains `model` on `blocks` into the run folder `config.out`, from the start or its newest checkpoint.

    `start` is called once, before a run's first step. It, `evaluate`, `sample` and `on_checkpoint` are handed in, so
    that this room knows nothing of those rooms.
    """

    def __init__(
        self,
        config: TrainConfig,
        blocks: Blocks,
        model: Model,
        tokenizer: Tokenizer | None = None,
        objective: Objective | None = None,
        start: Callable[[Model], object] | None = None,
        evaluate: Evaluate | None = None,
        sample: Sample | None = None,
        on_checkpoint: Callable[[Path], object] | None = None,
    ):
        self.config, self.blocks, self.model, self.tokenizer = config, blocks, model, tokenizer
        self.objective, self.start = objective or NextToken(), start
        self.evaluate, self.sample, self.on_checkpoint = evaluate, sample, on_checkpoint
        self.run = RunFolder(config.out, config.keep_checkpoints)
        self.progress, self.clock = Progress(), Clock()
        self.resumed_at: int | None = None
        self._saved: int | None = None
        self._saved_at = 0.0
        self._tokens_per_second: float | None = None
        self._judge_seconds = self._save_seconds = 0.0

    def fit(self) -> Done:
        """Train to the budget's end, or until a signal. Raises TrainingError after bad steps."""
        with storage.only_writer(self.run.path):
            return self._fit()

    def _fit(self) -> Done:
        checkpoint = self.run.newest()
        state = load_trainer(checkpoint) if checkpoint else None
        self._set_up(state)
        if checkpoint and state:
            self._take_back(checkpoint, state)
            log.say(f"going on after step {self.progress.step:,} of {self._version.total_steps:,}")
        log.cut_metrics(self.run.path, self.progress.step if state else -1)
        self.metrics = log.MetricsLog(self.run.path, self.progress.step)
        self.display = Display(self._version.total_steps, self.progress.step)
        self.ahead = Ahead(self._read, pin=self.device.type == "cuda")
        try:
            with stop_on_signals() as stop:
                self._loop(stop)
        finally:
            self.ahead.close()
            self.display.close()
            self.metrics.close()
        return self._done()

    # The start: machine, plan, optimiser, and what a checkpoint gives back

    def _set_up(self, state: TrainerState | None) -> None:
        recorded = plan.load_plan(self.run.path)
        if recorded is None and state is not None:
            recorded = plan.plan_from_json(state.values["plan"], "the checkpoint's plan")
        if recorded is None:
            machine = start.machine_for(self.model, self.config)
        else:
            machine = start.suited(self.model, self.config, recorded.machine)
        self.device = devices.prepare(machine, self.config.device.deterministic)
        if self.config.document_mask == "auto":
            masked = recorded.at(0).batches.document_mask if recorded else start.masks_for_nothing(self.config, machine)
            self.config = self.config.model_copy(update={"document_mask": masked})
        self.model.to(self.device).train()
        self.model.compute_dtype, self.model.attention = machine.dtype, machine.attention
        if state is None and self.start is not None:
            self.start(self.model)
        self.optimizer = Optimizer(self.model, self.config.optim, machine.dtype)
        budget = parse_budget(self.config.budget)
        self.time_budget = TimeBudget(budget.amount, self.clock) if budget.unit == "minutes" else None
        self.compute: nn.Module = start.compiled(self.model) if machine.compile else self.model
        if recorded is None:
            trial = Trial(self.compute, self.optimizer, self.objective, self.blocks, self.config, self.device)
            self.plan, self.compute = start.decide(trial, machine, self.time_budget)
        else:
            self.plan = recorded
        self.config = schedule.halved(self.config, self.plan.halvings)
        plan.save_plan(self.run.path, self.plan)

    def _take_back(self, checkpoint: Path, state: TrainerState) -> None:
        values = state.values
        model = self.config.model.model_dump(mode="json")
        for what, here in (("shards", self.blocks.address), ("model", model), ("base", self._base)):
            if values.get(what, "") != here:
                raise CheckpointError(f"{checkpoint}: was trained with another {what} than this run names")
        load_weights(checkpoint, self.model)
        self.optimizer.load(state.tensors)
        self.progress = Progress(**values["progress"])
        self.clock = Clock(values["seconds"])
        if self.time_budget is not None:
            self.time_budget.clock = self.clock
        self.resumed_at = self._saved = self.progress.step

    # The loop

    @property
    def _base(self) -> str:
        """Return the sha256 of the weights that an adapter stands beside, which a checkpoint does not hold."""
        return self.model.adapter.base_sha256 if self.model.adapter else ""

    @property
    def _version(self) -> plan.Version:
        return self.plan.at(self.progress.step)

    def _loop(self, stop: StopRequest) -> None:
        self._saved_at = self.clock.seconds
        if self.progress.step == 0:
            self._judge()
            self._sample()
            self._afford_events()
        while self.progress.step < self._version.total_steps and not stop.wanted:
            self._step()
            evaluation_due = self._due(self.config.eval_every)
            is_best = evaluation_due and self._judge()
            if self._due(self.config.sample_every) if self.config.sample_every else evaluation_due:
                self._sample()
            if stop.wanted or is_best or self._save_is_due():
                self._save(is_best)
            self._revise()
        if self._saved != self.progress.step:
            self._save()

    def _read(self, batches_plan: BatchPlan, step: int) -> Batch:
        return self.objective.collate(batches.batch(self.blocks, batches_plan, self.config.seed, step))

    def _step(self) -> None:
        at, version = self.progress.step, self._version
        started = time.perf_counter()
        batch = self.ahead.batch(version.batches, at)
        count = self.objective.count(batch)
        factor = schedule.rate_factor(self.config.schedule, version.total_steps, at)
        self.optimizer.set_rate(factor)
        torch.manual_seed(devices.seed_for(self.config.seed, "step", at))
        rows = max(1, self.plan.machine.micro_batch_tokens // batch.ids_BT.shape[1])
        parts = split(batch, rows, self.device)
        result = train_step(self.compute, self.optimizer, self.objective, parts, count, self.config.optim.clip)
        self.progress.step += 1
        self.progress.tokens += batch.scored
        seconds = time.perf_counter() - started
        if self.time_budget is not None:
            self.time_budget.took(seconds)
        self._record(result, batch, factor, seconds)

    def _record(self, result: StepResult, batch: Batch, factor: float, seconds: float) -> None:
        step = self.progress.step
        if result.skipped:
            self._skipped(result)
            return
        self.progress.skips_in_a_row = 0
        if step == 1 and self.config.init is None and self.config.embedding == "random":
            self._check_first_loss(result.loss)
        speed, before = batch.scored / seconds, self._tokens_per_second
        self._tokens_per_second = speed if before is None else 0.9 * before + 0.1 * speed
        flops = self.model.flops_per_token(batch.ids_BT.shape[1]) * batch.ids_BT.numel() / seconds
        row = {
            "tokens": self.progress.tokens,
            "seconds": round(self.clock.seconds, 3),
            self.objective.loss_name: result.loss,
            **result.metrics,
            "learning_rate": factor * self.config.optim.lr,
            "grad_norm": result.grad_norm,
            "tokens_per_second": speed,
            "gemm_share": flops / self.plan.machine.gemm_flops,
        }
        self.metrics.write("train", step, **row)
        shown = {**row, "loss": result.loss, "tokens_per_second": self._tokens_per_second, **self._bits()}
        self.display.step(step, self._version.total_steps, shown)

    def _bits(self) -> dict[str, float]:
        quality = self.progress.quality
        return {"bits_per_char": quality["bits_per_char"]} if quality else {}

    def _skipped(self, result: StepResult) -> None:
        step = self.progress.step
        reason = f"loss {result.loss}, gradient norm {result.grad_norm}"
        self.metrics.write("skipped", step, reason=reason)
        self.display.say(f"step {step:,}: {reason}: not finite, so this update is skipped")
        self.progress.skips_in_a_row += 1
        if self.progress.skips_in_a_row >= _SKIPS_IN_A_ROW:
            good = self.run.linked("latest")
            raise TrainingError(
                f"step {step:,}: {_SKIPS_IN_A_ROW} steps in a row were not finite. The last good checkpoint is "
                f"{good or 'none yet'}. Start a new run{f' from it (--init {good})' if good else ''} with lower "
                "--optim.lr and --optim.muon-lr, or with --device.precision fp32"
            )

    def _check_first_loss(self, loss: float) -> None:
        expected = math.log(self.blocks.vocab_size)
        if abs(loss - expected) > 0.1 * expected:
            self.display.say(
                f"step 1: the loss is {loss:.2f} nats/token, where an untrained model should have "
                f"ln({self.blocks.vocab_size:,}) = {expected:.2f}: "
                f"the initialisation is {'too wide' if loss > expected else 'not a fresh one'}"
            )

    def _due(self, every: int) -> bool:
        """Tell whether an event of every so many steps (0: ten over the run at most) falls on this step."""
        total = self._version.total_steps
        return self.progress.step % self._distance(every) == 0 or self.progress.step >= total

    def _distance(self, every: int) -> int:
        return every or -(-self._version.total_steps // self.plan.events)

    def _judge(self) -> bool:
        """Evaluate; tell whether no trained weights were better, so that these are worth keeping."""
        step, seconds = self.progress.step, self.clock.seconds
        if self.evaluate is None:
            return False
        quality = dict(self.evaluate(self.model))
        self.progress.quality = quality
        self.metrics.write("eval", step, tokens=self.progress.tokens, seconds=round(seconds, 3), **quality)
        self.display.say(f"step {step:,}: {quality_text(quality)}")
        self._judge_seconds = self.clock.seconds - seconds
        figure = quality[self.objective.best_by]
        if step == 0 or not figure <= (self.progress.best or math.inf):
            return False
        self.progress.best = figure
        return True

    def _sample(self) -> None:
        seconds = self.clock.seconds
        for prompt, text in self.sample(self.model) if self.sample else ():
            self.metrics.write("sample", self.progress.step, prompt=prompt, text=text)
        self._judge_seconds += self.clock.seconds - seconds

    def _afford_events(self) -> None:
        """With a time budget, plan as many evaluations as take a tenth of it at most."""
        if self.time_budget is not None:
            self.plan = replace(self.plan, events=self.time_budget.events_that_fit(self._judge_seconds))
            plan.save_plan(self.run.path, self.plan)

    def _seconds_of_events_left(self) -> float:
        def left(every: int) -> int:
            total = self._version.total_steps
            return 1 + (total - self.progress.step) // self._distance(every)

        judging = self._judge_seconds * left(self.config.eval_every)
        return judging + self._save_seconds * left(self.config.checkpoint_every)

    def _save_is_due(self) -> bool:
        """Tell whether a checkpoint is due: at its steps, or ten minutes after the last; never amid bad steps."""
        long_ago = self.clock.seconds - self._saved_at > _SECONDS_BETWEEN_CHECKPOINTS
        due = self._due(self.config.checkpoint_every) or (long_ago and not self.config.checkpoint_every)
        return due and not self.progress.skips_in_a_row

    def _save(self, is_best: bool = False) -> None:
        started = self.clock.seconds
        self.metrics.sync()
        values = {
            "progress": asdict(self.progress),
            "seconds": self.clock.seconds,
            "plan": self.plan.as_json(),
            "shards": self.blocks.address,
            "model": self.config.model.model_dump(mode="json"),
            "base": self._base,
        }
        state = TrainerState(values, self.optimizer.tensors())
        self.run.save(self.progress.step, self.model, self.tokenizer, state, is_best)
        if self.on_checkpoint is not None:
            self.on_checkpoint(self.run.path)
        self._saved, self._saved_at = self.progress.step, self.clock.seconds
        self._save_seconds = self._saved_at - started

    def _revise(self) -> None:
        step, version = self.progress.step, self._version
        if self.time_budget is None or self.plan.has_version_from(step):
            return
        reserve = self._seconds_of_events_left()
        total = self.time_budget.revision(self.config.schedule, step, version.total_steps, reserve)
        if total is None:
            return
        self.plan = self.plan.revised(self.config, step, total, f"{self.clock.seconds:.0f} s are spent")
        plan.save_plan(self.run.path, self.plan)
        self.metrics.write("plan", step, total_steps=total, why=self.plan.versions[-1].why)

    def _done(self) -> Done:
        progress, quality = self.progress, self.progress.quality or {}
        best = self.run.linked("best")
        done = Done(
            run=str(self.run.path),
            checkpoint=str(self.run.checkpoint(progress.step)),
            best=str(best) if best else None,
            step=progress.step,
            resumed_at=self.resumed_at,
            tokens=progress.tokens,
            loss_nats_per_token=quality.get("loss_nats_per_token"),
            bits_per_char=quality.get("bits_per_char"),
            seconds=round(self.clock.seconds, 3),
            finished=progress.step >= self._version.total_steps,
        )
        if done.finished:
            storage.write_json(self.run.path / SUMMARY, asdict(done))
        return done
