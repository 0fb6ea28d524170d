"""`danlu fetch`: sets on a hub, brought here beforehand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tyro.conf import Positional

from danlu.commands import finish
from danlu.configure import parse_flags


@dataclass(frozen=True)
class Options:
    """Fetch sets from a hub into the cache, and print where their files lie.

    Every verb that reads sources does the same by itself. A name is hf:OWNER/NAME or modelscope:OWNER/NAME, then
    @REVISION and :GLOB if wanted ('hf:wikimedia/wikipedia:20231101.zh/*.parquet'), or a name of `danlu corpora`. What
    was cut goes on where it stopped. HF_ENDPOINT and MODELSCOPE_ENDPOINT name mirrors, HF_TOKEN and
    MODELSCOPE_API_TOKEN hold tokens, HF_HOME and MODELSCOPE_CACHE move the caches, HF_HUB_OFFLINE=1 and
    MODELSCOPE_OFFLINE=1 forbid the network.
    """

    sources: Positional[tuple[str, ...]] = ()
    """sets on a hub (other sources are looked up, too)"""
    json: bool = False
    """print one JSON object as the last line"""


def run(argv: list[str]) -> int:
    """Parse, fetch, print the paths."""
    from danlu.data.sources import Corpus

    options = parse_flags(Options, argv, "danlu fetch")
    corpus = Corpus(options.sources)
    result: dict[str, Any] = {
        "files": [str(path) for path in corpus.files],
        "bytes": corpus.bytes_total,
        "bytes_fetched": corpus.bytes_fetched,
        "revisions": corpus.revisions,
    }
    return finish(result, "\n".join(result["files"]), options.json)
