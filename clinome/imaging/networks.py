"""Networks that turn a picture into a vector, by the names they are known under.

>>> encoder("resnet18").n_features, encoder("small", size=88).n_features
(512, 480)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

from clinome.core.errors import StudyError

if TYPE_CHECKING:
    from torch import nn

    from clinome.nn.weights import Preprocessing

Network = Literal["small", "resnet18", "resnet50", "inception_v3", "densenet121"]


def encoder(name: str, *, size: int = 224) -> nn.Module:
    """Return the network called ``name`` without its head, with first weights from torch's generator.

    Parameters
    ----------
    size
        Side of the pictures in pixels; only 'small' depends on it.

    Raises
    ------
    StudyError
        For a name that is not known.
    """
    from clinome.imaging.models import densenet, inception_v3, resnet, small_encoder

    if name == "small":
        return small_encoder.Model(small_encoder.Config(size=size))
    if name in ("resnet18", "resnet50"):
        return resnet.Model(resnet.Config(layers=18 if name == "resnet18" else 50, outputs=0))
    if name == "inception_v3":
        return inception_v3.Model(inception_v3.Config(outputs=0))
    if name == "densenet121":
        return densenet.Model(densenet.Config(outputs=0))
    raise StudyError("there is no such network", got=name, expected=", ".join(get_args(Network)))


def preprocessing(name: str) -> Preprocessing | None:
    """Return how pictures are scaled for the network called ``name``: by ImageNet's mean and deviation; None leaves them in 0–1."""
    from clinome.nn.weights import Preprocessing

    return None if name == "small" else Preprocessing((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
