"""A start for the embedding: what the training text's bigrams say of every entry, before the first step.

A token's row holds two halves: how it is followed and how it is preceded, the factors of the bigrams' positive
pointwise mutual information. Entries that occur in like places then lie near each other from the start; what
remains to be learned is a map from the one half to the other. It changes numbers, not the architecture.

Source of the factorisation: Levy and Goldberg 2014, "Neural word embedding as implicit matrix factorization".
Shapes: V vocabulary, D width, Q = D / 2.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from danlu.data.shards import TokenStream
from danlu.model import Model

_WIDER = 5.0
_MOST_TOKENS = 1 << 24
_PIECES = 64
_MORE_DIRECTIONS = 16
_ITERATIONS = 3
_SMALLEST = 1e-6


def start_from_bigrams(model: Model, train: TokenStream) -> None:
    """Set a fresh model's embedding from the training text, wider than a random draw: there is more in it to keep.

    A tied output would foretell every token itself, being most like its own row. So the last norm begins with the
    first half's scales negative: there, what is alike counts against a token, and the two halves balance.
    """
    with torch.no_grad():
        weight_VD = model.embedding_weight
        weight_VD.copy_(bigram_embedding(train, *weight_VD.shape, std=_WIDER * float(weight_VD.std())))
        if model.output_weight is weight_VD:
            model.last_norm_weight[: (weight_VD.shape[1] + 1) // 2] *= -1


def bigram_embedding(train: TokenStream, vocab_size: int, width: int, std: float) -> Tensor:
    """Return embedding_VD with standard deviation `std`; entries that never occur have rows of zeros.

    Counts at most 16.8 million tokens, taken evenly from the stream. The same stream gives the same numbers.
    """
    left_VQ, right_VQ = _factors(_positive_pmi(_bigrams(train, vocab_size), vocab_size), (width + 1) // 2)
    embedding_VD = torch.cat([left_VQ, right_VQ], 1)[:, :width]
    return embedding_VD * (std / embedding_VD.std())


def _bigrams(train: TokenStream, vocab_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the bigrams that occur, as first · V + second, and their counts."""
    size = min(len(train), _MOST_TOKENS) // _PIECES or len(train)
    keys: list[np.ndarray] = []
    for start in np.linspace(0, len(train) - size, _PIECES if size < len(train) else 1).astype(np.int64):
        ids = train.read(int(start), int(start) + size)
        keys.append(ids[:-1] * vocab_size + ids[1:])
    return np.unique(np.concatenate(keys), return_counts=True)


def _positive_pmi(bigrams: tuple[np.ndarray, np.ndarray], vocab_size: int) -> Tensor:
    """Return log(p(ab) / (p(a) p(b))) where it is above 0, as a sparse V×V matrix in float64."""
    keys, counts = bigrams
    first, second = np.divmod(keys, vocab_size)
    firsts = np.bincount(first, counts, vocab_size)
    seconds = np.bincount(second, counts, vocab_size)
    pmi = np.log(counts) + np.log(counts.sum()) - np.log(firsts[first]) - np.log(seconds[second])
    kept = pmi > 0
    index = torch.from_numpy(np.stack([first[kept], second[kept]]))
    size = (vocab_size, vocab_size)
    return torch.sparse_coo_tensor(index, torch.from_numpy(pmi[kept]), size, check_invariants=True).coalesce()


def _factors(matrix_VV: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return left_VQ and right_VQ, whose product left rightᵀ is close to the best of this rank.

    A randomised singular value decomposition: Halko, Martinsson and Tropp 2011, arXiv:0909.4061, algorithms 4.4 and
    5.1. Bases are made orthogonal by their Gram matrices, far cheaper than a QR and good enough in float64.
    """
    transposed = matrix_VV.t().coalesce()
    size = (matrix_VV.shape[0], min(matrix_VV.shape[0], rank + _MORE_DIRECTIONS))
    basis = torch.randn(size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for _ in range(_ITERATIONS):
        basis = _scaled_directions(transposed @ (matrix_VV @ basis), -1.0)[0]
    image = matrix_VV @ basis
    left, directions, values = _scaled_directions(image, -0.5)
    right = basis @ directions * values.sqrt()
    missing = max(0, rank - left.shape[1])
    left_VQ, right_VQ = (F.pad(side[:, :rank].float(), (0, missing)) for side in (left, right))
    return left_VQ, right_VQ


def _scaled_directions(image: Tensor, power: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return a tall matrix's left singular vectors times its values to `power` + 1, the right ones, and the values.

    The largest come first.
    """
    squares, directions = torch.linalg.eigh(image.mT @ image)
    values, directions = squares.clamp_min(0).sqrt().flip(0), directions.flip(1)
    scales = torch.where(values > _SMALLEST * values[0], values**power, 0)  # a missing direction has no size to scale
    return image @ directions * scales, directions, values
