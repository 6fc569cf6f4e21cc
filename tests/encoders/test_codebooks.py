"""Residual codebooks: the search finds what the package finds, or better; fitting leaves less over."""

import itertools
from typing import Any

import pytest
import torch
from encodec.quantization.vq import ResidualVectorQuantizer

from v2meow.encoders.codec import codebooks


@pytest.fixture(scope="module")
def vectors() -> torch.Tensor:
    """2000 vectors of 12 numbers with few degrees of freedom, as spectra have."""
    random = torch.Generator().manual_seed(0)
    return torch.randn(2000, 5, generator=random).tanh() @ torch.randn(5, 12, generator=random)


@pytest.fixture(scope="module")
def books(vectors) -> torch.Tensor:
    return codebooks.fit(vectors, 3, 8, torch.Generator().manual_seed(0))


def _error(vectors, codes, books) -> float:
    return (vectors - codebooks.restore(codes, books)).square().sum(1).mean().item()


def test_a_beam_of_one_is_the_packages_own_search(vectors, books):
    quantizer = ResidualVectorQuantizer(dimension=12, n_q=3, bins=8, kmeans_init=False)
    layers: Any = quantizer.vq.layers
    for layer, book in zip(layers, books, strict=True):
        layer._codebook.embed.copy_(book)
    theirs = quantizer.encode(vectors.T[None], 25)[:, 0].T
    assert torch.equal(codebooks.search(vectors, books, 1), theirs)


def test_a_beam_that_keeps_all_finds_the_nearest_sum(vectors, books):
    every = torch.tensor(list(itertools.product(range(8), repeat=3)))
    nearest = torch.cdist(vectors[:50], codebooks.restore(every, books)).argmin(1)
    assert torch.equal(codebooks.search(vectors[:50], books, 64), every[nearest])


def test_a_wider_beam_leaves_less_over(vectors, books):
    errors = [_error(vectors, codebooks.search(vectors, books, beam), books) for beam in (1, 4, 16)]
    assert errors[0] > 1.02 * errors[1] and errors[1] >= errors[2]


def test_vectors_do_not_depend_on_those_beside_them(vectors, books):
    assert torch.equal(codebooks.search(vectors[:7], books, 4), codebooks.search(vectors, books, 4)[:7])


def test_refining_leaves_less_over(vectors, books):
    """For the same codes the least squares cannot be worse; on vectors not seen it must help too."""
    codes = codebooks.search(vectors[:1000], books, 1)
    refined = codebooks.refine(vectors[:1000], codes, books)
    assert _error(vectors[:1000], codes, refined) < 0.99 * _error(vectors[:1000], codes, books)
    later = vectors[1000:]
    before, after = (_error(later, codebooks.search(later, each, 1), each) for each in (books, refined))
    assert after < before


def test_entries_that_no_vector_uses_stay_where_they_are(vectors, books):
    codes = codebooks.search(vectors, books, 1).clamp(max=6)
    assert torch.equal(codebooks.refine(vectors, codes, books)[:, 7], books[:, 7])


def test_k_means_finds_clusters_that_lie_apart():
    centres = 10 * torch.eye(4, 6)
    points = centres.repeat(50, 1) + 0.1 * torch.randn(200, 6, generator=torch.Generator().manual_seed(0))
    found, nearest = codebooks.kmeans(points, 16, torch.eye(6), torch.Generator().manual_seed(0))
    assert torch.cdist(centres, found).amin(1).max() < 0.2
    assert (points - found[nearest]).norm(dim=1).max() < 1
