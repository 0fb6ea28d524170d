"""What the cleaning rules catch of planted bad documents, lose of good ones, and cost.

python benchmarks/rules.py [--recipe web] [--pool held_out] [--seed 7] [--count 300]
"""

import argparse
import random
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "data_in"))

from planted import KINDS, planted

from danlu.data.clean import Counts, Rule, clean, default_rules, describe
from danlu.data.dedup import ExactDedup
from danlu.data.rules.perplexity import Perplexity
from danlu.data.rules.recipes import recipe
from danlu.data.sources import Corpus
from danlu.types import Document, Drop

ROUNDS = 5


def answer(rules: list[Rule], text: str) -> Document | Drop:
    counts = Counts()
    kept = list(clean([Document(text, "", "")], rules, counts))
    return kept[0] if kept else Drop(next(iter(counts.dropped)))


def corpus(name: str) -> list[Document]:
    return list(clean(Corpus([name]), [*default_rules(1), ExactDedup()], Counts()))


def megabytes(documents: list[Document]) -> float:
    return sum(len(d.text.encode()) for d in documents) / 1e6


def caught(rules: list[Rule], options: argparse.Namespace, good: list[str]) -> None:
    for kind in KINDS:
        bad = planted(kind, options.seed, options.count, options.pool, good)
        reasons, found = Counter[str](), 0
        for one in bad:
            after = answer(rules, one.document.text)
            reasons[after.reason if isinstance(after, Drop) else "kept"] += 1
            expected = None if one.repaired is None else answer(rules, one.repaired)
            found += one.caught(after, expected.text if isinstance(expected, Document) else None)
        print(f"{kind:16} {found / len(bad):6.1%}  {dict(reasons)}")


def lost(rules: list[Rule], documents: list[Document], name: str) -> None:
    counts = Counts()
    list(clean(documents, rules, counts))
    share = (counts.dropped.total() - counts.dropped["too_short"]) / counts.documents
    print(f"{name}: {counts.documents:,} documents, lost besides short ones {share:.2%}  {dict(counts.dropped)}")


def speed(rules: list[Rule], documents: list[Document], name: str) -> None:
    seconds = []
    for _ in range(ROUNDS):
        start = time.process_time()
        list(clean(documents, rules, Counts()))
        seconds.append(time.process_time() - start)
    print(f"{name}: {megabytes(documents) / min(seconds):.1f} MB/s a core, best of {ROUNDS}")


def cost_of_each(rules: list[Rule], documents: list[Document]) -> None:
    for rule in rules:
        start = time.process_time()
        for document in documents:
            rule(document)
        print(
            f"  {describe(rule):20} {(time.process_time() - start) / len(documents) * 1e6:5.1f} µs, counting included"
        )


def perplexity(documents: list[Document]) -> None:
    texts = [d.text for d in documents]
    random.Random(0).shuffle(texts)
    learnt, others = texts[:15_000], texts[15_000:]
    rule = Perplexity.learn(learnt)
    start = time.process_time()
    high = [rule.trigrams.bits(text) > rule.most for text in others]
    rate = sum(len(t.encode()) for t in others) / 1e6 / (time.process_time() - start)
    long = [text for text in others if len(text) >= rule.from_characters]
    shuffled = [rule.trigrams.bits("".join(random.Random(1).sample(text, len(text)))) > rule.most for text in long]
    print(
        f"perplexity: limit {rule.most:.2f} bits a character, {sum(high) / len(high):.2%} of good texts above, "
        f"{sum(shuffled) / len(shuffled):.1%} of shuffled ones; {rate:.1f} MB/s a core"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", default="web", choices=["web", "books", "chat"])
    parser.add_argument("--pool", default="held_out", choices=["look", "held_out"])
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--count", type=int, default=300)
    options = parser.parse_args()
    rules, demo, chat = recipe(options.recipe), corpus("demo"), corpus("demo-chat")
    news = [d for d in demo if d.source == "demo/news"]
    good = [d.text for d in news if len(d.text) > 200]
    caught(rules, options, good[:1000] if options.pool == "look" else good[1000:2000])
    for documents, name in ((demo, "demo"), (news, "demo, news"), (chat, "demo-chat")):
        lost(rules, documents, name)
    for documents, name in ((demo, "demo"), (news, "demo, news")):
        speed(rules, documents, name)
    cost_of_each(rules, demo)
    perplexity(demo)


if __name__ == "__main__":
    main()
