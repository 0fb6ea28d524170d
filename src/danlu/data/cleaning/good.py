"""What text that a user calls good is like: trigrams learnt from it, kept in the work folder."""

from __future__ import annotations

from pathlib import Path

from danlu import storage
from danlu.data.clean import Counts, clean
from danlu.data.cleaning.settings import CleanSettings
from danlu.data.rules.perplexity import Perplexity, Trigrams
from danlu.data.rules.recipes import recipe
from danlu.data.sources import Corpus
from danlu.errors import DataError

_TRIGRAMS, _LIMIT = "trigrams.npz", "limit.json"


def learn(folder: Path, good: Corpus, settings: CleanSettings) -> None:
    """Make a folder of what good text is like; it passes the recipe's rules first, as the corpus will.

    Raises DataError where too little of it is left, OutputError where the folder cannot be written.
    """
    documents = clean(good.track("learning what good text is like"), recipe(settings.recipe, settings.rules), Counts())
    limits = settings.perplexity
    found = Perplexity.learn((d.text for d in documents), limits.percentile, limits.from_characters)
    with storage.new_folder(folder) as scratch:
        found.trigrams.save(scratch / _TRIGRAMS)
        storage.write_json(scratch / _LIMIT, {"most": found.most, "from_characters": found.from_characters})


def learnt(folder: Path) -> Perplexity | None:
    """Return the rule that a folder of `learn` makes; None where there is none."""
    if not folder.is_dir():
        return None
    return Perplexity(Trigrams.load(folder / _TRIGRAMS), **storage.read_json(folder / _LIMIT, DataError))
