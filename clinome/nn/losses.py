"""Objectives that more than one model trains with."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from clinome.core.errors import SchemaError


def nt_xent(embeddings: Tensor, groups: Tensor, *, temperature: float = 0.2) -> Tensor:
    """Return the normalised, temperature-scaled cross entropy of telling one's own group from all others.

    Rows of one group are each other's positives, every other row is a negative. For groups of two this is NT-Xent of SimCLR;
    for larger groups the loss is averaged over a row's positives (the 'out' form of supervised contrastive learning). Only
    directions count: rows are scaled to length one first. It is 0 at best and log(n − 1) when the rows are all alike.

    Parameters
    ----------
    embeddings
        Shape (n, d).
    groups
        Shape (n,), integers. A row that is alone in its group is a negative for others and adds no term of its own.
    temperature
        Smaller values look harder at the most similar negatives.

    References
    ----------
    Chen T, Kornblith S, Norouzi M, Hinton G. A simple framework for contrastive learning of visual representations. ICML (2020),
    equation 1, arXiv:2002.05709. Khosla P et al. Supervised contrastive learning. NeurIPS (2020), equation 2, arXiv:2004.11362.

    Example
    -------
    >>> same, other = torch.eye(4)[[0, 0, 1, 1]], torch.eye(4)[[0, 1, 0, 1]]
    >>> groups = torch.tensor([0, 0, 1, 1])
    >>> bool(nt_xent(same, groups) < 0.05 < nt_xent(other, groups))
    True
    """
    rows = F.normalize(embeddings, dim=1)
    myself = torch.eye(len(rows), dtype=torch.bool, device=rows.device)
    similarity = (rows @ rows.T / temperature).masked_fill(myself, float("-inf"))
    log_probability = similarity - similarity.logsumexp(dim=1, keepdim=True)
    positive = (groups[:, None] == groups[None, :]) & ~myself
    count = positive.sum(dim=1)
    per_row = -log_probability.masked_fill(~positive, 0.0).sum(dim=1) / count.clamp(min=1)
    return per_row.sum() / (count > 0).sum().clamp(min=1)


def cos_face(embeddings: Tensor, identities: Tensor, who: Tensor, *, scale: float = 30.0, margin: float = 0.4) -> Tensor:
    """Return the large-margin cosine loss of telling many identities apart by the direction of an embedding.

    Each identity has a direction; the cosine between an embedding and its own identity must beat every other by ``margin``:
    cross entropy of the cosines times ``scale``, after ``margin`` is taken from the right one. Lengths do not count.

    Parameters
    ----------
    embeddings
        Shape (n, d).
    identities
        A learned direction for each identity, shape (n_identities, d).
    who
        The identity of each row, whole numbers, shape (n,).

    References
    ----------
    Wang H et al. CosFace: large margin cosine loss for deep face recognition. CVPR (2018), equation 4,
    doi:10.1109/CVPR.2018.00552; with people as identities and s = 30, m = 0.4: Xie Z et al. iGWAS. PLOS Genetics 20:e1011273
    (2024), doi:10.1371/journal.pgen.1011273.

    Example
    -------
    >>> axes = torch.eye(3)
    >>> bool(cos_face(axes, axes, torch.arange(3)) < 1e-3 < cos_face(axes, axes, torch.tensor([1, 2, 0])))
    True
    """
    cosine = F.normalize(embeddings, dim=1) @ F.normalize(identities, dim=1).T
    own = F.one_hot(who, len(identities)).to(cosine.dtype)
    return F.cross_entropy(scale * (cosine - margin * own), who)


def supervised(output: Tensor, target: Tensor) -> Tensor:
    """Return the mean cross-entropy where the target counts classes, the mean squared error where it holds numbers.

    Parameters
    ----------
    output
        Shape (n, outputs): class scores (logits) or predicted numbers.
    target
        Whole numbers of shape (n,), the class of each row; or floating numbers of the shape of ``output``.

    Raises
    ------
    SchemaError
        When numbers do not have the shape of ``output``: subtracting them would silently compare every row with every other.

    Example
    -------
    >>> supervised(torch.zeros(2, 4), torch.tensor([0, 3])).item() == torch.tensor(4.0).log().item()
    True
    >>> supervised(torch.zeros(2, 1), torch.tensor([[1.0], [3.0]])).item()
    5.0
    """
    if not target.is_floating_point():
        return F.cross_entropy(output, target)
    if output.shape != target.shape:
        raise SchemaError("targets do not fit the network's outputs", got=tuple(target.shape), expected=tuple(output.shape))
    return F.mse_loss(output, target)
