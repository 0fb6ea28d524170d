"""Recipes against planted bad documents and good ones."""

import importlib.util
import pickle

import pytest
from planted import KINDS, planted

from danlu.data.clean import Counts, Rule, clean, default_rules, describe
from danlu.data.dedup import ExactDedup
from danlu.data.rules.perplexity import Perplexity
from danlu.data.rules.recipes import RECIPES, Recipe, recipe
from danlu.data.sources import Corpus
from danlu.types import Document, Drop

SEED = 7
LISTED = ("ads", "footers")
"""Kinds that are found by a list of phrases, which knows what it lists: docs/log.md has what is found of others."""
WITH_FTFY = importlib.util.find_spec("ftfy") is not None
RULES = recipe("web", Recipe(ftfy=WITH_FTFY))


def answer(rules: list[Rule], document: Document) -> Document | Drop:
    for rule in rules:
        found = rule(document)
        if isinstance(found, Drop):
            return found
        document = found
    return document


@pytest.fixture(scope="module")
def good():
    return list(clean(Corpus(["demo"]), [*default_rules(1), ExactDedup()], Counts()))


@pytest.fixture(scope="module")
def articles(good):
    return [d.text for d in good if d.source == "demo/news" and len(d.text) > 200][1000:]


@pytest.mark.parametrize("kind", KINDS)
def test_of_every_planted_kind_95_percent_are_caught(kind, articles):
    bad = planted(kind, SEED, 200, "look" if kind in LISTED else "held_out", articles)
    caught = 0
    for one in bad:
        expected = None if one.repaired is None else answer(RULES, Document(one.repaired, "", ""))
        repaired = expected.text if isinstance(expected, Document) else None
        caught += one.caught(answer(RULES, one.document), repaired)
    assert caught >= 0.95 * len(bad)


def test_personal_data_is_masked_and_not_dropped(articles):
    bad = planted("personal", SEED, 200, "held_out", articles)
    kept = [answer(RULES, one.document) for one in bad]
    assert sum(isinstance(document, Document) for document in kept) >= 0.95 * len(bad)


@pytest.mark.parametrize("name", RECIPES)
def test_of_good_documents_one_percent_is_lost_besides_the_short_ones(name, good):
    counts = Counts()
    list(clean(good, recipe(name, RECIPES[name].model_copy(update={"ftfy": WITH_FTFY})), counts))
    lost = counts.dropped.total() - counts.dropped["too_short"]
    assert lost <= 0.01 * counts.documents, counts.dropped


def test_cleaning_twice_is_cleaning_once(good, articles):
    bad = [one.document for kind in KINDS for one in planted(kind, SEED, 30, "look", articles)]
    for document in [*good[::20], *bad]:
        once = answer(RULES, document)
        if isinstance(once, Document):
            again = answer(RULES, once)
            assert isinstance(again, Drop) or again.text == once.text


def test_every_rule_has_a_name_of_its_own():
    names = [describe(rule) for rule in RULES]
    assert names[:4] == ["repair_mojibake", "normalise_lines", "strip_wrappers", "at_least"]
    assert {"half_width", "cut_boilerplate", "repeated_sequences", "mask_personal"} <= set(names)
    assert describe(ExactDedup()) == "exact_dedup"


def test_thresholds_are_checked_and_travel(texts):
    with pytest.raises(ValueError, match="less than or equal to 1"):
        Recipe(symbols=2)
    settings = Recipe(ftfy=False, min_chars=7, masked=("email",))
    rules = recipe("web", settings)
    assert answer(rules, Document("六个字的文本", "", "")) == Drop("too_short")
    for rule in rules:
        if describe(rule) != "at_least":  # a closure
            assert pickle.loads(pickle.dumps(rule)) == rule or callable(rule)


def test_perplexity_is_asked_last(texts):
    rules = recipe("chat", Recipe(ftfy=False), Perplexity.learn(texts, from_characters=20))
    assert describe(rules[-1]) == "perplexity"
    assert answer(rules, Document("这些字我们都认得，可是放在一处就不像话了。", "", "")) == Drop("perplexity")


POEM = "在海峡的彼岸\n有我们的小妹妹\n长江叮嘱我\n我们想她呀\n海峡的水\n才是咸的\n她们说\n山崩地裂也斩不断\n"
CODE = "`functools.total_ordering`\n只要定义 `__eq__` 和 `__lt__`，自动补全其他比较方法，减少重复代码。"


@pytest.mark.parametrize("name", ["books", "web"])
def test_poems_without_punctuation_stay(name):
    document = Document("\n".join(f"{line}{i}" for i in "一二三四五六" for line in POEM.split()), "", "")
    settings = {"ftfy": False, "repeated_sequences": 1}
    assert answer(recipe(name, RECIPES[name].model_copy(update=settings)), document) == document


def test_talk_keeps_code():
    document = Document(CODE, "", "")
    assert answer(recipe("chat", RECIPES["chat"].model_copy(update={"ftfy": False})), document) == document
    assert isinstance(answer(recipe("web", Recipe(ftfy=False)), document), Drop)
