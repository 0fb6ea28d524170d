"""What near-deduplication finds of planted copies, loses of good documents, and costs in time and memory.

python benchmarks/near.py [--planted 100000] [--documents 1400000] [--processes 2] [--templates]

Texts are sentences of the demo corpus (random ones where its package is missing), 417 characters in the mean; 15 % are
copies with 5, 10 or 20 % of their characters exchanged. Similarities of planted pairs are counted by sets.
`--templates` begins all of them with the same 200 characters, so that many are half alike.
"""

import argparse
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "data_in"))

import alike

from danlu.data.near import Near, near_duplicates, signatures

PART = 10_000
STEPS = (0, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 1)
NEAR = Near()


def most_memory(who: int) -> str:
    return f"{resource.getrusage(who).ru_maxrss / 1024:,.0f} MB"


def found_and_lost(options: argparse.Namespace) -> None:
    texts, pairs = alike.planted(7, options.planted, POOL)
    template = "".join(POOL[:20])[:200] if options.templates else ""
    if template:
        texts = [template + text for text in texts]
        pairs = [alike.Pair(a, b, alike.jaccard(texts[a], texts[b])) for a, b, _ in pairs]
    first = near_duplicates(signatures(texts, NEAR), NEAR).tolist()
    for low, high in pairwise(STEPS):
        some = [pair for pair in pairs if low < pair.similarity <= high]
        gone = sum(first[a] != a or first[b] != b for a, b, _ in some)
        print(
            f"  similarity {low:.2f} to {high:.2f}: {len(some):6,} pairs, one gone of {gone / max(1, len(some)):6.1%}"
        )
    found, lost = alike.found_and_lost(texts, pairs, first)
    print(f"{len(texts):,} documents: {found:.2%} of pairs above 0.8 found, {lost:.3%} of good documents lost")


def sign(part: int) -> tuple[np.ndarray, float, float, float]:
    """Make a part's texts and sign them; return also the seconds that signing took, of a core and by the clock."""
    texts, _ = alike.planted(part, PART, POOL)
    clock, core = time.perf_counter(), time.process_time()
    signed = signatures(texts, NEAR)
    return signed, time.process_time() - core, time.perf_counter() - clock, sum(map(len, texts))


def measure(parts: Sequence[int], processes: int, folder: Path) -> None:
    signed = np.lib.format.open_memmap(folder / "signed.npy", "w+", np.uint32, (len(parts) * PART, NEAR.hashes))
    core = clock = characters = 0.0
    with multiprocessing.Pool(processes) as pool:
        for part, (rows, cores, clocks, size) in enumerate(pool.imap(sign, parts)):
            signed[part * PART : (part + 1) * PART] = rows
            core, clock, characters = core + cores, clock + clocks, characters + size
    start = time.perf_counter()
    first = near_duplicates(signed, NEAR)
    finding = time.perf_counter() - start
    documents = len(first)
    gone = int((first != np.arange(documents)).sum())
    print(
        f"{documents:,} documents of {characters / documents:.0f} characters, {processes} processes: signing "
        f"{clock / processes:.0f} s ({core:.0f} s of a core), finding {finding:.0f} s, together "
        f"{clock / processes + finding:.0f} s; {gone:,} gone; at most {most_memory(resource.RUSAGE_SELF)} here, "
        f"{most_memory(resource.RUSAGE_CHILDREN)} in each other process (texts included)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--planted", type=int, default=100_000)
    parser.add_argument("--documents", type=int, default=1_400_000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--templates", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(range(options.documents // PART), options.processes, Path(folder))
    found_and_lost(options)


POOL = alike.sentences()

if __name__ == "__main__":
    main()
