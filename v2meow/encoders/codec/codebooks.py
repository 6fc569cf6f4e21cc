"""Residual codebooks: fitting them to vectors, and finding the codes of a vector. Knows nothing of sound.

Legend: N vectors, D dimensions, K levels, C entries of a codebook, b candidates.
"""

import torch
from torch import Tensor

_ROUNDS = 6  # of Lloyd's algorithm: 5 are 0.1 dB worse, 8 no better than more vectors in the same time
_PROJECTED = 128  # principal components that distances are taken in: a fifth of the arithmetic for frames of 640
_BASIS_VECTORS = 4096  # that the components are found from
_ROWS = 8192  # vectors compared at once, so that memory does not grow with their number
_REFINED = 32_768  # vectors that all levels are refined on together
_RIDGE = 3.0  # vectors that an entry's old value counts for in the refinement


def fit(vectors: Tensor, levels: int, bins: int, generator: torch.Generator) -> Tensor:
    """Codebooks [K, C, D] by residual k-means: each fits what those before it leave over of vectors [N, D]."""
    basis = _principal(vectors[:_BASIS_VECTORS])
    residual, books = vectors.clone(), []
    for _ in range(levels):
        book, nearest = kmeans(residual, bins, basis, generator)
        residual -= book[nearest]
        books.append(book)
    return torch.stack(books)


def refine(vectors: Tensor, codes: Tensor, books: Tensor) -> Tensor:
    """All levels together by least squares, the codes [N, K] held fixed: the entries whose sums are nearest [K, C, D].

    Residual k-means fits a level without the ones after it, which leaves error that no later level takes up (the
    codebook update of additive quantization, Babenko & Lempitsky, CVPR 2014). Solved for the change, with a ridge, so
    that entries that few vectors use stay where they are.
    """
    levels, bins, width = books.shape
    places = codes + bins * torch.arange(levels)
    together = torch.zeros(levels * bins, levels * bins)
    for one in range(levels):
        for other in range(levels):
            pairs = torch.bincount(codes[:, one] * bins + codes[:, other], minlength=bins * bins)
            together[one * bins : (one + 1) * bins, other * bins : (other + 1) * bins] = pairs.view(bins, bins)
    missing, wanted = vectors - restore(codes, books), torch.zeros(levels * bins, width)
    for level in range(levels):
        wanted.index_add_(0, places[:, level], missing)
    together.diagonal().add_(_RIDGE)
    return books + torch.linalg.solve(together, wanted).view_as(books)


def fit_refined(vectors: Tensor, levels: int, bins: int, generator: torch.Generator) -> Tensor:
    """Codebooks [K, C, D] by residual k-means over all vectors [N, D], refined together on some of them."""
    books = fit(vectors, levels, bins, generator)
    some = vectors[:_REFINED]
    return refine(some, search(some, books, 1), books)


def search(vectors: Tensor, books: Tensor, beam: int) -> Tensor:
    """Codes int64 [N, K] of vectors [N, D]: at each level the `beam` best sums so far are kept; 1 is greedy.

    The nearest entry of an early codebook is often not part of the nearest sum.
    """
    return torch.cat([_search(part, books, beam) for part in vectors.split(max(1, _ROWS // beam))])


def restore(codes: Tensor, books: Tensor) -> Tensor:
    """Codes [N, k] → the sums of their entries [N, D]."""
    return sum((books[level][codes[:, level]] for level in range(codes.shape[1])), torch.zeros(()))


def kmeans(points: Tensor, clusters: int, basis: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Lloyd's algorithm on points [N, D] seen through `basis` [D, d]: centroids [C, D] and each point's nearest [N].

    An empty cluster starts again at a random point.
    """
    seen = points @ basis
    centroids = seen[torch.randint(0, len(seen), (clusters,), generator=generator)]
    for _ in range(_ROUNDS):
        centroids = _means(seen, _nearest(seen, centroids), clusters, generator)
    nearest = _nearest(seen, centroids)
    return _means(points, nearest, clusters, generator), nearest


def _means(points: Tensor, nearest: Tensor, clusters: int, generator: torch.Generator) -> Tensor:
    counts = torch.bincount(nearest, minlength=clusters)[:, None]
    sums = points.new_zeros(clusters, points.shape[1]).index_add_(0, nearest, points)
    restart = points[torch.randint(0, len(points), (clusters,), generator=generator)]
    return torch.where(counts > 0, sums / counts.clamp(min=1), restart)


def _nearest(points: Tensor, centroids: Tensor) -> Tensor:
    lengths = centroids.square().sum(1)
    return torch.cat([(lengths - 2 * part @ centroids.T).argmin(1) for part in points.split(_ROWS)])


def _principal(vectors: Tensor) -> Tensor:
    """The directions [D, d] that hold most of the vectors' energy."""
    return torch.linalg.eigh(vectors.T @ vectors).eigenvectors[:, -_PROJECTED:].contiguous()


def _search(vectors: Tensor, books: Tensor, beam: int) -> Tensor:
    """Distances without the vector's own length: |sum|² - 2 vector·sum, where sums grow by an entry a level."""
    inner = torch.einsum("nd,kcd->knc", vectors, books)
    codes = torch.zeros(len(vectors), 1, 0, dtype=torch.int64)
    distance = vectors.new_zeros(len(vectors), 1)
    for level, book in enumerate(books):
        cost = distance[..., None] + (book.square().sum(1) - 2 * inner[level])[:, None]  # [N, b, C]
        for before in range(level):
            cost = cost + 2 * (books[before] @ book.T)[codes[..., before]]
        distance, best = cost.flatten(1).topk(min(beam, cost[0].numel()), dim=1, largest=False)
        kept = codes.gather(1, (best // len(book))[..., None].expand(-1, -1, level))
        codes = torch.cat((kept, (best % len(book))[..., None]), dim=2)
    return codes[:, 0]
