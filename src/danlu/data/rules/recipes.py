"""Recipes: which rules a kind of text passes, in which order, with which thresholds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from danlu.config import Table
from danlu.data.characters import Kind
from danlu.data.clean import Rule, at_least, normalise_lines, strip_wrappers
from danlu.data.rules.boilerplate import CutBoilerplate
from danlu.data.rules.encoding import Broken, RepairMojibake
from danlu.data.rules.endings import FinishSentence
from danlu.data.rules.language import Chinese, Identified, py3langid
from danlu.data.rules.lines import Headlines, ListLines, Menu
from danlu.data.rules.links import Links
from danlu.data.rules.markup import StripMarkup
from danlu.data.rules.normalise import ShortenRuns, Simplify, compose, half_width, unescape
from danlu.data.rules.perplexity import Perplexity
from danlu.data.rules.phrases import PHRASES
from danlu.data.rules.privacy import MaskPersonal, Secret
from danlu.data.rules.quality import AtMost, FunctionWords, RepeatedSequences
from danlu.data.rules.repeated_lines import RepeatedLines

RecipeName = Literal["web", "books", "chat"]
Share = Annotated[float, Field(ge=0, le=1)]


class Recipe(Table):
    """Every threshold of the rules; a share that is 1 (0 where it is a least share) turns its rule off.

    "Measured" means: chosen on the demo corpus and planted bad documents, see docs/log.md of 2026-11-24.
    """

    ftfy: bool = Field(default=True, description="repair single garbled sequences by ftfy")
    garbled: Share = Field(
        default=0.2, description="share of characters that wrong decoding leaves (measured: 0.3 and more)"
    )
    broken: Share = Field(default=0.01, description="share of lost characters (U+FFFD, 锟斤拷, private use)")
    broken_lines: Share = Field(default=0.2, description="drop where more than this stands in lost lines; less is cut")
    markup: Share | None = Field(
        default=0.7, description="drop where more of the text is HTML; less is taken off; None: HTML stays"
    )
    longest_run: int | None = Field(
        default=3, ge=1, description="longest run of one sign; longer ones are cut; None: any"
    )
    simplify: bool = Field(default=False, description="turn traditional characters into simplified ones by OpenCC")
    han: Share = Field(
        default=0.4, description="least share of Han among the letters; reviews full of brands have half"
    )
    other_letters: Share = Field(
        default=0.1, description="share of letters neither Han nor Latin: kana, hangul, Cyrillic"
    )
    chinese_clauses: Share = Field(
        default=0.25, description="share of a mixed text's words, in Chinese clauses, for which it stays"
    )
    identify: bool = Field(default=False, description="ask the identifier py3langid too (slow: about 4 MB/s)")
    boilerplate: Share = Field(default=0.5, description="drop where more of the text is boilerplate; less is cut")
    boilerplate_line: int = Field(
        default=100, ge=0, description="lines up to this length go whole, of longer ones the sentence"
    )
    page_lines: bool = Field(default=True, description="cut lines that only name a source or what may be clicked on")
    phrases: Path | None = Field(default=None, strict=False, description="a list of phrases in place of danlu's own")
    link_characters: Share = Field(default=0.3, description="share of characters in addresses")
    link_lines: Share = Field(default=0.5, description="share of lines with an address, from `from_lines` lines on")
    symbols: Share = Field(default=0.15, description="share of symbols; Gopher: 0.1 of the words, which reviews exceed")
    digits: Share = Field(default=0.5, description="share of digits (measured: 0.2 in news, 0.57 in its tables)")
    punctuation: Share = Field(default=0.5, description="share of punctuation (measured: 0.3 in good text)")
    function_words: Share = Field(default=0.005, description="least share of words of grammar among Han (measured)")
    function_words_from: int = Field(default=50, ge=0, description="Han characters from which that is asked")
    repeated_lines: Share = Field(default=0.3, description="share of lines that are copies (Gopher)")
    repeated_line_characters: Share = Field(default=0.2, description="share of characters in copies of lines (Gopher)")
    refrain: Share = Field(default=0.6, description="share of lines, and of characters, in copies of lines in verse")
    grammar: Share = Field(
        default=0.1,
        description="share of words of grammar from which short lines are verse "
        "(measured: 95 % of lists of twelve headlines have less than 0.09, 95 % of reviews more than 0.13)",
    )
    headlines: Share = Field(default=0.8, description="share of characters in lines that are headlines or titles")
    headlines_from: int = Field(default=6, ge=1, description="lines from which a text can be a list of headlines")
    from_lines: int = Field(
        default=4, ge=1, description="lines from which shares of list items, ellipses and links count"
    )
    bullet_lines: Share = Field(default=0.9, description="share of lines that begin as list items (Gopher)")
    ellipsis_lines: Share = Field(default=0.3, description="share of lines that trail off (Gopher)")
    menu: Share = Field(
        default=0.7, description="share of characters in short entries (FineWeb: 0.67 of lines are short)"
    )
    menu_entry: int = Field(default=8, ge=1, description="characters of a short entry (FineWeb: 30 letters)")
    menu_entries: int = Field(default=10, ge=1, description="entries from which a text can be a menu")
    repeated_sequences: Share = Field(default=0.25, description="share of sequences of 8 characters that came before")
    top_sequence: Share = Field(default=0.3, description="share of the text that one sequence of 4 characters makes up")
    repeated_from: int = Field(default=50, ge=8, description="characters from which these two count")
    finish_from: int | None = Field(
        default=200, ge=0, description="characters from which a last sentence must end; None: never"
    )
    finish_keep: Share = Field(default=0.5, description="drop where less than this ends in a finished sentence")
    min_chars: int = Field(default=20, ge=1, description="shortest document")
    masked: tuple[Secret, ...] = Field(
        default=("email", "id_number", "phone"), strict=False, description="personal data to mask"
    )


RECIPES: dict[RecipeName, Recipe] = {
    "web": Recipe(),
    "books": Recipe(
        han=0.6,
        boilerplate=0.3,
        function_words_from=200,
        repeated_lines=1,
        bullet_lines=1,
        headlines=1,
        menu=1,
        longest_run=None,
        finish_from=None,
        min_chars=200,
    ),
    "chat": Recipe(
        markup=None,
        han=0.1,
        boilerplate=0.6,
        page_lines=False,
        symbols=0.3,
        digits=0.7,
        punctuation=0.7,
        function_words=0,
        repeated_line_characters=0.3,
        bullet_lines=1,
        ellipsis_lines=1,
        headlines=1,
        menu=1,
        repeated_sequences=0.4,
        top_sequence=0.5,
        longest_run=None,
        finish_from=None,
        min_chars=2,
    ),
}
"""Books have poems, tables of contents and one long text; talk is short, has code, formulas and lists."""


def recipe(name: RecipeName, settings: Recipe | None = None, perplexity: Perplexity | None = None) -> list[Rule]:
    """Return the rules of a recipe in the order in which a document passes them.

    `settings` replace the recipe's own thresholds; a filter by `perplexity` is asked last, for it is learnt first.

    Texts are decoded and normalised first, for every later rule counts characters; their length is asked early, as it
    costs nothing, and again of what is left. Masks come after repeated sequences are counted (all placeholders are
    alike) and before digits are (a list of telephone numbers is to be masked, not dropped).
    Raises DataError where a package of the extra `[clean]` is missing.
    """
    s = settings or RECIPES[name]
    learnt: list[Rule] = [] if perplexity is None else [perplexity]
    digits, length = AtMost(Kind.DIGIT, s.digits, "digits"), at_least(s.min_chars)
    return [*_form(s), *_language(s), *_content(s), *_shape(s), MaskPersonal(s.masked), digits, length, *learnt]


def _form(s: Recipe) -> list[Rule]:
    rules: list[Rule] = [RepairMojibake(s.garbled, s.ftfy), normalise_lines, strip_wrappers]
    rules += [at_least(s.min_chars), Broken(s.broken, s.broken_lines)]
    rules += [unescape if s.markup is None else StripMarkup(s.markup), half_width, compose]
    if s.longest_run is not None:
        rules.append(ShortenRuns(s.longest_run))
    return [*rules, *([Simplify()] if s.simplify else [])]


def _language(s: Recipe) -> list[Rule]:
    return [Chinese(s.han, s.other_letters, s.chinese_clauses), *([Identified(py3langid())] if s.identify else [])]


def _content(s: Recipe) -> list[Rule]:
    return [
        CutBoilerplate(s.boilerplate_line, s.boilerplate, s.phrases or PHRASES, s.page_lines),
        Links(s.link_characters, s.link_lines, s.from_lines),
        AtMost(Kind.SYMBOL, s.symbols, "symbols"),
        AtMost(Kind.PUNCTUATION, s.punctuation, "punctuation"),
    ]


def _shape(s: Recipe) -> list[Rule]:
    finish: list[Rule] = [] if s.finish_from is None else [FinishSentence(s.finish_from, s.finish_keep, s.grammar)]
    return [
        RepeatedLines(s.repeated_lines, s.repeated_line_characters, s.refrain, s.grammar),
        ListLines(s.bullet_lines, s.ellipsis_lines, s.from_lines),
        Menu(s.menu, s.menu_entry, s.menu_entries, s.grammar),
        Headlines(s.headlines, s.grammar, s.headlines_from),
        FunctionWords(s.function_words, s.function_words_from),
        RepeatedSequences(s.repeated_sequences, s.top_sequence, s.repeated_from),
        *finish,
    ]
