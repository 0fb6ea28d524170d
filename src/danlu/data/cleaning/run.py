"""Cleaning from end to end: sources in, a folder of records out, the same bytes however often it is interrupted."""

from __future__ import annotations

import shutil
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from danlu import log, storage
from danlu.data.cleaning.against import hash_of
from danlu.data.cleaning.columns import joined, read_schema
from danlu.data.cleaning.compare import compare
from danlu.data.cleaning.engines import Engine
from danlu.data.cleaning.good import learn
from danlu.data.cleaning.ledger import Ledger
from danlu.data.cleaning.records import line_of
from danlu.data.cleaning.settings import CleanSettings
from danlu.data.cleaning.sift import LEDGER, PART_CHARACTERS, SCHEMA, Part, Sift, cut
from danlu.data.cleaning.typed import note_schema
from danlu.data.cleaning.work import Work, folder_beside, opened
from danlu.data.cleaning.write import Write, compared
from danlu.data.contamination import Contamination
from danlu.data.files import require_apart
from danlu.data.report import write_report
from danlu.data.sources import Corpus
from danlu.errors import DataError

REPORT = "report.html"


def clean_corpus(
    corpus: Corpus,
    settings: CleanSettings,
    out: Path,
    engine: Engine,
    against: Sequence[str] = (),
    good: Corpus | None = None,
    part_characters: int = PART_CHARACTERS,
) -> dict[str, Any]:
    """Clean a corpus into `out` and return its manifest, with `resumed`: how many parts an earlier run had done.

    Documents that hold one of the evaluation texts `against` are dropped, and those that are unlike `good` text.
    An interrupted run leaves a work folder beside `out`, and the same call goes on there. Every byte of `out` follows
    from the corpus and the settings; the engine, its workers and `part_characters` change none.
    Memory: a few parts for each worker, and what `compare` takes. Raises DataError where a source cannot be read or
    nothing is left of it, OutputError where `out` exists, lies in a source or holds one, or cannot be written, where
    another run's parts lie beside it, or the disk is full.
    """
    require_apart(corpus.specs, corpus.files, out)
    identity = {**settings.identity(), "against": hash_of(against), "good": good.fingerprint() if good else None}
    if against:
        _say_what_is_not_looked_for(against, settings)
    known = _known(out, identity, corpus)
    if known is not None:
        return known
    work = Work.beside(out, settings, {**identity, "inputs": corpus.fingerprint()})
    with opened(work, part_characters):
        run = _Run(corpus, work, engine)
        try:
            if against and not work.against.is_file():
                with storage.replacing(work.against) as scratch:
                    scratch.write_bytes(line_of(list(against)))
            if good is not None and not work.good.is_dir():
                learn(work.good, good, settings)
            if settings.format == "parquet":
                note_schema(work, corpus)
            manifest = run.clean(out, part_characters)
        except BaseException as error:
            run.leave(interrupted=isinstance(error, KeyboardInterrupt))
            raise
        shutil.rmtree(work.folder)
    return manifest


def _say_what_is_not_looked_for(against: Sequence[str], settings: CleanSettings) -> None:
    looked_for = settings.decontaminate
    count = Contamination.of(against, looked_for).not_looked_for
    if count:
        log.say(
            f"note: {count:,} of {len(against):,} evaluation texts are not looked for: they have fewer than "
            f"{looked_for.gram} letters and fewer than {looked_for.shortest} Han, or nothing but what most of them have"
        )


def _known(out: Path, identity: dict[str, Any], corpus: Corpus) -> dict[str, Any] | None:
    """Return the manifest of `out` if it was made of the same corpus alike. Raises OutputError for any other `out`."""
    if (out / storage.MANIFEST).is_file():
        manifest = storage.verify(out, DataError, contents=False)
        found = manifest.get("run", {})
        if found == {**identity, "inputs": found.get("inputs")} and found["inputs"] == corpus.fingerprint():
            shutil.rmtree(folder_beside(out), ignore_errors=True)  # a run was killed after `out` had its name
            return {**manifest, "resumed": 0, "already_cleaned": True}
    storage.require_absent(out)
    return None


class _Run:
    """The steps of a run, in order; what is finished of each is not done again."""

    def __init__(self, corpus: Corpus, work: Work, engine: Engine):
        self.corpus, self.work, self.engine = corpus, work, engine
        self.ledger, self.resumed = Ledger.new(work.settings.report), 0
        self.skipped: dict[str, Any] = {}

    def clean(self, out: Path, part_characters: int) -> dict[str, Any]:
        """Do what is left to do, and put the output in place."""
        sifted = self.work.read.is_file()
        if not sifted:
            self._sift(part_characters)
        read = storage.read_json(self.work.read, DataError)
        self.skipped, parts = {name: read[name] for name in ("skipped", "skipped_files")}, read["parts"]
        self.resumed = parts if sifted else self.resumed
        for number in range(parts):
            self._add(self.work.part("sifted", number))
        self._require_some(self.ledger.documents - self.ledger.dropped.total())
        if not self.work.compared.is_dir():
            log.say("comparing all documents")
            compare(self.work, parts)
        files = len(compared(self.work)[0].files) - 1
        self._write(files)
        self._add(self.work.compared)
        written = [self.work.part("written", number) for number in range(files)]
        holding = [folder for folder in written if self._add(folder)]
        self._require_some(self.ledger.kept)
        return self._put(out, holding)

    def _sift(self, part_characters: int) -> None:
        """Sift every part; note in the work folder how many there are, and what was passed over."""
        sifted, schemas = 0, list[Any]()
        with log.progress("bytes") as bar:
            task = bar.add_task("sifting", total=self.corpus.bytes_total, note="")
            read = deque[int]()
            show = partial(bar.update, task)
            parts = self._parts(part_characters, read, lambda done: show(completed=done))
            with closing(self.engine.map(Sift(self.work), parts)) as results:
                for number in results:
                    sifted += 1
                    show(completed=read.popleft(), note=f"part {number + 1:,}")
                    if self.work.settings.format == "parquet":
                        schemas = [joined([*schemas, read_schema(self.work.part("sifted", number) / SCHEMA)])]
            show(completed=self.corpus.bytes_total)
        passed_over = {"skipped": self.corpus.skipped, "skipped_files": self.corpus.skipped_files}
        storage.write_json(self.work.read, {"parts": self.resumed + sifted, **passed_over})

    def _parts(self, characters: int, read: deque[int], show: Callable[[int], None]) -> Iterator[Part]:
        """Read the corpus; yield the parts that are not sifted yet, and append to `read` how far the corpus is read."""
        for part in cut(self.corpus, characters):
            if not self.work.part("sifted", part.number).is_dir():
                read.append(self.corpus.bytes_read)
                yield part
                continue
            self.resumed += 1
            if not read:
                show(self.corpus.bytes_read)

    def _write(self, files: int) -> None:
        """Write every file that is not written yet."""
        left = [number for number in range(files) if not self.work.part("written", number).is_dir()]
        self.resumed += files - len(left)
        with closing(self.engine.map(Write(self.work), left)) as results:
            for _ in log.track(results, "writing", len(left), "files"):
                pass

    def _add(self, folder: Path) -> int:
        """Add what became of a part's documents; return how many stay."""
        ledger = Ledger.read(folder / LEDGER)
        self.ledger.merge(ledger)
        return ledger.kept

    def _require_some(self, documents: int) -> None:
        if not documents:
            shutil.rmtree(self.work.folder)
            reason, count = next(iter(self.ledger.counts()["dropped"].items()))
            raise DataError(
                f"{', '.join(self.corpus.specs)}: of {self.ledger.documents:,} documents none is left; `{reason}` took "
                f"most, {count:,}. Choose another --recipe, or loosen its thresholds (danlu clean --help)"
            )

    def _put(self, out: Path, written: Sequence[Path]) -> dict[str, Any]:
        """Put the output folder in place: the files written, the report, the manifest."""
        manifest = {
            "sources": list(self.corpus.specs),
            "revisions": self.corpus.revisions,
            "run": self.work.identity,
            **self.ledger.counts(),
            **self.skipped,
        }
        suffix = self.work.settings.format
        with storage.new_folder(out, manifest) as folder:
            for number, part in enumerate(written):
                _link(part / f"part.{suffix}", folder / f"part-{number:05d}.{suffix}")
            if self.ledger.survey is not None:
                about = {name: manifest[name] for name in ("sources", "revisions", *self.skipped)}
                about |= self.work.settings.model_dump(mode="json", exclude_none=True)
                write_report(self.ledger.survey.as_dict(), folder / REPORT, ", ".join(self.corpus.specs), about)
        return {**manifest, "resumed": self.resumed, "already_cleaned": False}

    def leave(self, interrupted: bool) -> None:
        """Say what an unfinished run leaves; leave nothing where nothing is finished."""
        finished = self.work.finished_parts()
        if finished:
            log.say(f"{finished:,} parts are finished and lie in {self.work.folder}: the same command goes on there")
            return
        shutil.rmtree(self.work.folder, ignore_errors=True)
        if interrupted:
            log.say("no part was finished, so nothing is kept: the same command begins anew")


def _link(source: Path, target: Path) -> None:
    """Give a file a second name; where the filesystem has none, copy it."""
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copyfile(source, target)
