"""Does an explanation depend on what the model has learned? Randomise the model's parameters and see whether the map changes.

Some maps that look convincing are edge detectors: they stay the same when the network's weights are replaced by noise (Adebayo
2018). The test replaces parameters layer by layer, from the output down ('cascade') or one layer at a time ('each'), and
compares the map with the one of the trained model by Spearman's rank correlation. A method passes when the
correlation falls towards zero; one that does not must not be shown as an explanation of this model.

References
----------
Adebayo J, Gilmer J, Muelly M, Goodfellow I, Hardt M, Kim B. Sanity checks for saliency maps. NeurIPS (2018), arXiv:1810.03292.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata
from torch import Tensor, nn

from clinome.core.errors import NotConverged


class Randomised(NamedTuple):
    """How alike maps stay as a model is randomised.

    Attributes
    ----------
    layers
        Modules after which the maps were compared, in the order in which they were randomised (from the output down).
    similarity
        Spearman correlation of the map (of its size, unless ``signed``) with that of the model as given, shape (n_layers, n); NaN
        for a map that is constant.
    """

    layers: list[str]
    similarity: NDArray[np.float64]

    def require(self, at_most: float = 0.5) -> None:
        """Raise NotConverged when the mean correlation with everything randomised (the last row) is above ``at_most``.

        Nothing can be concluded from maps that are all constant, and that is raised too. In a test of 'each' every row must
        stay below.
        """
        last = np.nanmean(self.similarity[-1]) if np.isfinite(self.similarity[-1]).any() else np.nan
        if not last <= at_most:
            raise NotConverged(
                "the maps hardly depend on what the model has learned",
                where=f"all layers down to {self.layers[-1]!r} randomised",
                got=f"a rank correlation of {last:.2f} with the map of the trained model",
                expected=f"at most {at_most:.2f}",
                do="do not show this method's maps as an explanation of this model",
            )


def randomise_model(
    model: nn.Module,
    inputs: Tensor,
    attribute: Callable[[nn.Module, Tensor], Tensor],
    *,
    generator: torch.Generator,
    order: Literal["cascade", "each"] = "cascade",
    points: int | None = None,
    signed: bool = False,
    before: Tensor | None = None,
) -> Randomised:
    """Compare maps of ``model`` with maps of copies whose parameters are randomised; the model itself is not touched.

    Parameters
    ----------
    attribute
        The method under test: from a model and ``inputs`` (n, …) to maps (n, …), always of one shape. Let it mark, not raise
        (``integrated_gradients(..., when_missed='mark')``): a random model may be harder to integrate.
    generator
        Of the random parameters, on the CPU. Each parameter is drawn anew from the normal distribution with its own mean and
        standard deviation, so that the signal keeps its size; a parameter of one value, or whose values are all equal, stays.
    order
        'cascade' randomises the output layer, then also the one below it, and so on to the input; 'each' one at a time.
    points
        Look at the map after so many layers only, spread evenly and the last among them, where a map of every layer takes too long.
    signed
        Compare the maps with their signs, not their sizes, for methods whose maps are shown so. Integrated gradients are a slope
        times a distance from the baseline, and the size of that distance, the picture's own contrast, stays whatever the network.
    before
        The maps of ``model`` itself, where they are known already (of several calls, each with random numbers of its own).
    """
    layers = [name for name, module in model.named_modules() if any(True for _ in module.parameters(recurse=False))][::-1]
    count = len(layers)
    looked = np.arange(count) if points is None else np.unique(np.linspace(count - 1, 0, points).round().astype(int))
    before = attribute(model, inputs) if before is None else before
    changed = copy.deepcopy(model)
    rows = []
    for k, name in enumerate(layers):
        if order == "each" and k not in looked:
            continue
        if order == "each":
            changed = copy.deepcopy(model)
        with torch.no_grad():
            for parameter in changed.get_submodule(name).parameters(recurse=False):
                draws = torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(parameter)
                parameter.copy_(parameter.mean() + draws * parameter.std(correction=0))
        if k in looked:
            rows.append(_alike(before, attribute(changed, inputs), signed))
    return Randomised([layers[k] for k in looked], np.array(rows).reshape(len(looked), len(inputs)))


def _alike(first: Tensor, second: Tensor, signed: bool) -> NDArray[np.float64]:
    """Return the Spearman correlation of two maps of each example, or of their sizes, shape (n,)."""
    result = np.full(len(first), np.nan)
    for row, (one, other) in enumerate(zip(first, second, strict=True)):
        shown = [values.detach().double().cpu().numpy().ravel() for values in (one, other)]
        ranks = [rankdata(values if signed else np.abs(values)) for values in shown]
        if all(np.ptp(values) > 0 for values in ranks):
            result[row] = np.corrcoef(*ranks)[0, 1]
    return result
