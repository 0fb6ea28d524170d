"""What a data report costs: CPU seconds of statistics with and without a survey, in turns, and of writing the page.

    python benchmarks/report.py [SRC…] [--documents 200000] [--turns 5]

The demo corpus, read as often as it takes, where no source is named. Reading counts in both.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from statistics import median

from danlu.data.report import write_report
from danlu.data.sources import Corpus
from danlu.data.stats import Stats
from danlu.data.survey import Survey
from danlu.types import Document


def documents(sources: list[str], count: int) -> Iterator[Document]:
    def again() -> Iterator[Document]:
        while True:
            yield from Corpus(sources)

    return islice(again(), count)


def seconds(sources: list[str], count: int, survey: Survey | None) -> float:
    began, stats = time.process_time(), Stats()
    read = documents(sources, count)
    stats.add(read if survey is None else survey.reading(read))
    stats.as_dict()
    if survey is not None:
        survey.as_dict()
    return time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="*", default=["demo"])
    parser.add_argument("--documents", type=int, default=200_000)
    parser.add_argument("--turns", type=int, default=5)
    options = parser.parse_args()
    plain, with_survey = [], []
    for _ in range(options.turns):
        plain.append(seconds(options.sources, options.documents, None))
        survey = Survey()
        with_survey.append(seconds(options.sources, options.documents, survey))
    ratios = [b / a for a, b in zip(plain, with_survey, strict=True)]
    began = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        page = write_report(survey.as_dict(), Path(folder) / "report.html")
        wrote, size = time.process_time() - began, page.stat().st_size
    print(f"stats          {median(plain):8.2f} s CPU")
    print(f"with a survey  {median(with_survey):8.2f} s CPU")
    print(f"ratio          {median(ratios):8.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    print(f"page           {wrote:8.2f} s CPU, {size / 1e3:,.0f} kB")


if __name__ == "__main__":
    main()
