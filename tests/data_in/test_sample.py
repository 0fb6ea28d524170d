"""A sample is bounded, fair, the same every time, and keeps away from what validation will hold out."""

import random

from danlu.data.dedup import normalised_hash
from danlu.data.sample import sample
from danlu.types import Document

TEXTS = [f"{n}{'文' * (n % 90)}" for n in range(3000)]


def sampled(texts, characters):
    return sample((Document(text, "test", str(n)) for n, text in enumerate(texts)), characters)


def test_a_corpus_that_fits_is_taken_whole_and_in_order():
    assert sampled(TEXTS, sum(map(len, TEXTS))) == TEXTS


def test_a_larger_one_gives_as_much_as_fits_in_order_and_evenly():
    chosen = sampled(TEXTS, 30_000)
    assert 30_000 - 100 < sum(map(len, chosen)) <= 30_000
    places = [TEXTS.index(text) for text in chosen]
    assert places == sorted(places)
    halves = sum(place < len(TEXTS) / 2 for place in places) / len(places)
    assert 0.4 < halves < 0.6


def test_the_order_of_the_corpus_does_not_matter():
    shuffled = random.Random(0).sample(TEXTS, len(TEXTS))
    assert set(sampled(shuffled, 30_000)) == set(sampled(TEXTS, 30_000))


def test_what_validation_holds_out_is_left_to_the_last():
    assert all(normalised_hash(text) >= 0.05 * 2**64 for text in sampled(TEXTS, 90_000))


def test_one_text_larger_than_the_sample_is_still_a_sample():
    assert sampled(["一" * 100], 10) == ["一" * 100]


def test_no_more_is_held_than_asked_for(monkeypatch):
    held = 0

    class Text(str):
        def __new__(cls, text):
            nonlocal held
            held += 1
            return super().__new__(cls, text)

        def __del__(self):
            nonlocal held
            held -= 1

    most = 0

    def stream():
        nonlocal most
        for n in range(1000):
            yield Document(Text(f"{n:010d}"), "test", str(n))
            most = max(most, held)

    assert len(sample(stream(), 200)) == 20
    assert most <= 23
