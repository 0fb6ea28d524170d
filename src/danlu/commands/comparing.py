"""Before and after: what a fine-tuning run's model, and those it came from, answer to the held-out questions."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from danlu import log, storage
from danlu.commands.tuning import turns_folder
from danlu.config import TrainConfig
from danlu.configure import read_tables
from danlu.errors import CheckpointError

if TYPE_CHECKING:
    from danlu.evaluate.chat import Answer

_SHOWN = 12
_MAX_NEW_TOKENS = 64


def compare(config: TrainConfig, questions: int) -> dict[str, Any]:
    """Judge the models on at most so many questions, put it into the run's report, and return the scores by name.

    What is there already is not done again.
    """
    from danlu.checkpoint import load_model, load_tokenizer
    from danlu.data.chat import Conversation, Conversations
    from danlu.data.sources import Corpus
    from danlu.data.template import ChatTemplate
    from danlu.data.turns import HELD_OUT
    from danlu.evaluate.chat import ANSWERS, judge, side_by_side
    from danlu.evaluate.report import write_report
    from danlu.infer.sampling import Sampling
    from danlu.train.plan import load_plan

    run, path = config.out, config.out / ANSWERS
    if path.is_file():
        return storage.read_json(path, CheckpointError)["scores"]
    records = Conversations(Corpus([str(turns_folder(config) / HELD_OUT)], text_key=None))
    asked = list(islice(records.only(Conversation), questions))
    plan, folders = load_plan(run), _lineage(run)
    scores: dict[str, Any] = {}
    answers: dict[str, list[Answer]] = {}
    with log.progress("answers") as bar:
        task = bar.add_task("asking, before and after", total=len(asked) * len(folders), note="")
        for name, folder in folders.items():
            model, tokenizer = load_model(folder), load_tokenizer(folder)
            model.compute_dtype = plan.machine.dtype if plan else model.compute_dtype
            score, answers[name] = judge(
                model,
                tokenizer,
                ChatTemplate(tokenizer),
                asked,
                max_new_tokens=_MAX_NEW_TOKENS,
                sampling=Sampling(),
                seed=config.seed,
                on_progress=lambda _: bar.advance(task),
            )
            scores[name] = score.as_dict()
    storage.write_json(path, {"scores": scores, "shown": side_by_side(answers, _SHOWN)})
    write_report(run)
    return scores


def _lineage(run: Path) -> dict[str, Path]:
    """Return a run's checkpoint and, before it, those it was made from, by their objectives: base, sft, dpo."""
    from danlu.checkpoint import resolve

    found: list[tuple[str, Path]] = []
    folder: Path | None = resolve(run)
    while folder is not None:
        settings = folder.parent.parent / "run.toml"
        tables = read_tables(str(settings)) if settings.is_file() else {}
        is_tuned = tables.get("objective", "pretrain") != "pretrain"
        found.append((tables["objective"] if is_tuned else "base", folder))
        before = Path(tables["init"]) if is_tuned else None
        folder = before if before is not None and before.is_dir() else None
    names: dict[str, Path] = {}
    for name, folder in reversed(found):
        names[name if name not in names else f"{name} {sum(n.startswith(name) for n in names) + 1}"] = folder
    return names
