"""Texts as people find them: good ones that a recipe must leave alone, and what must be gone of bad ones."""

import importlib.util

import pytest
from examples_of_text import BAD, GOOD, Example

from danlu.data.clean import Counts, clean
from danlu.data.rules.recipes import RECIPES, recipe
from danlu.types import Document

WITH_FTFY = importlib.util.find_spec("ftfy") is not None


def cleaned(example: Example, text: str) -> tuple[str | None, str | None]:
    """Return the text that is kept and the reason why it is not."""
    counts = Counts()
    rules = recipe(example.recipe, RECIPES[example.recipe].model_copy(update={"ftfy": WITH_FTFY}))
    kept = [document.text for document in clean([Document(text, "", "")], rules, counts)]
    return (kept[0], None) if kept else (None, next(iter(counts.dropped)))


@pytest.mark.parametrize("example", [*GOOD, *BAD], ids=lambda example: example.name)
def test_what_becomes_of_it(example):
    text, reason = cleaned(example, example.text)
    if example.dropped is not None:
        assert text is None
        assert example.dropped in ("", reason)
        return
    assert text is not None, reason
    assert not example.whole or text == example.text
    assert [part for part in example.kept if part not in text] == []
    assert [part for part in example.gone if part in text] == []


@pytest.mark.parametrize("example", [*GOOD, *BAD], ids=lambda example: example.name)
def test_twice_is_once(example):
    once, _ = cleaned(example, example.text)
    assert once is None or cleaned(example, once) == (once, None)
