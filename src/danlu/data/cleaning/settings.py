"""What decides what cleaning keeps: everything that two runs with the same bytes have in common."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from danlu import storage
from danlu.config import Table
from danlu.data.clean import EDITION
from danlu.data.contamination import Decontaminate
from danlu.data.near import Near
from danlu.data.repeats import Repeats
from danlu.data.rules.boilerplate import PHRASES, CutBoilerplate
from danlu.data.rules.perplexity import Limits
from danlu.data.rules.recipes import RECIPES, Recipe, RecipeName

Format = Literal["jsonl.zst", "jsonl", "parquet"]
FORMAT = 2
"""Of the folder that `danlu clean` makes and of its work folder: goes up with every change of either."""


class CleanSettings(Table):
    """Which rules a corpus passes and what is written; the number of workers and the engine change no byte of it."""

    recipe: RecipeName = Field(default="web", description="kind of text")
    rules: Recipe = Field(default=RECIPES["web"], description="the recipe's thresholds")
    near: Near | None = Field(default=Near(), description="what a near-duplicate is; None: they stay")
    repeats: Repeats | None = Field(default=Repeats(), description="which passages are cut; None: none")
    decontaminate: Decontaminate = Field(
        default=Decontaminate(), description="when a document holds an evaluation text"
    )
    perplexity: Limits = Field(default=Limits(), description="what is unlike good text, where some is named")
    text_key: str = Field(default="text", description="key that holds the text in the records written")
    format: Format = Field(default="jsonl.zst", description="kind of the files written")
    file_characters: int = Field(default=1 << 24, ge=1, description="characters of text a file holds at most")
    report: bool = Field(default=True, description="write report.html")

    def identity(self) -> dict[str, Any]:
        """Return all that must be the same for an interrupted run to go on: settings, lists that they name, formats.

        Raises DataError where such a list cannot be read.
        """
        CutBoilerplate(0, 1, self.rules.phrases or PHRASES)  # which raises DataError for a list that cannot be read
        phrases = storage.sha256_of(self.rules.phrases or PHRASES)
        return {"format": FORMAT, "edition": EDITION, "phrases": phrases, "settings": self.model_dump(mode="json")}
