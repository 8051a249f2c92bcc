"""The task file: what `clinome train` reads, checked before anything runs; every mistake names its line.

A task is TOML with the sections below; each is a frozen dataclass whose fields are the keys. Paths are relative to the file. A task
has a section [predict] (classes and numbers of people or pictures) or a section [segment] (structures drawn in masks).

>>> print(*(section for section in SECTIONS), sep=" ")
task images split predict segment
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from clinome.cohort.leakage import CHECKS
from clinome.core.errors import StudyError
from clinome.studies.toml_file import read_sections

NETWORKS = Literal["resnet18", "resnet50", "inception_v3", "densenet121"]
POOLS = Literal["average", "attention"]
NORMALISE = Literal["picture", "local"]
PRECISIONS = Literal["measure", "float32", "bfloat16"]
_SHARES = (0.15, 0.2)  # of people in validation and test, where neither is named


@dataclass(frozen=True)
class About:
    """`[task]`: ``title`` and ``subtitle`` of the report; ``seed`` of all that is drawn; ``threads`` of processor to use."""

    title: str = ""
    subtitle: str = ""
    seed: int = 1
    threads: int = 2


@dataclass(frozen=True)
class Pictures:
    """`[images]`: ``path`` of an images table or of a folder of DICOM, NIfTI, PNG or JPEG files.

    ``targets`` is a table with a column image_id or participant_id and what is known of each; without it the images table holds
    it. ``modality`` keeps files of that DICOM modality alone ('MR', 'CT', 'DX', …). ``mirror`` flips left eyes and limbs, so that
    left and right look alike.
    """

    path: Path
    targets: Path | None = None
    modality: str | None = None
    mirror: bool = False


@dataclass(frozen=True)
class Split:
    """`[split]`: who is learned from and who is judged; whole families together.

    ``path`` is a table of participant_id and split ('train', 'validation', 'test', or folds); without it people are split at
    random, into ``folds`` (each predicted by networks that have not seen it) or by the shares ``validation`` (0.15 where it is not
    named) and ``test`` (0.2).
    ``participants`` is a table whose family_id keeps families together. ``allow`` names checks of leakage that may fail: the
    explicit word.
    """

    path: Path | None = None
    folds: int = 0
    validation: float | None = None
    test: float | None = None
    participants: Path | None = None
    allow: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse two splits at once, unknown checks, and shares that leave nobody to learn from."""
        if self.folds < 0 or self.folds == 1:
            raise StudyError("folds is out of range", got=self.folds, expected="0, or 2 and more")
        if self.folds and self.path is not None:
            raise StudyError("a table of splits says already who is in which fold", got=f"folds {self.folds} and {self.path.name}")
        if unknown := set(self.allow) - set(CHECKS):
            raise StudyError("there is no such check of leakage to allow", got=min(unknown), expected=", ".join(CHECKS))
        if (self.folds or self.path is not None) and (self.validation is not None or self.test is not None):
            raise StudyError(
                "validation and test are shares of a split at random, and would not be used",
                got=f"validation {self.validation} and test {self.test} beside {'path' if self.path is not None else 'folds'}",
                do="leave out the one or the other",
            )
        validation, test = self.shares
        if not (0 < validation < 1 and 0 < test < 1 and validation + test < 1):
            raise StudyError("validation and test are shares that leave somebody to learn from", got=f"{validation} and {test}")

    @property
    def shares(self) -> tuple[float, float]:
        """The shares of people in validation and test, of a split at random."""
        validation, test = _SHARES
        return validation if self.validation is None else self.validation, test if self.test is None else self.test


@dataclass(frozen=True)
class Predict:
    """`[predict]`: ``classes`` and ``numbers`` to predict, ``helps``: those of them that only help the others to be learned.

    ``network`` reads pictures of ``size`` pixels (volumes: voxels) a side, begun with ``weights`` where given. ``members`` networks
    that differ in their seed are averaged, ``turns`` moved copies of a picture too. ``pool``: how the last maps become a vector, by
    their 'average', or by soft 'attention' that can be looked at (`clinome explain --method attention`). ``normalise``: a
    'picture' by its own mean and deviation, or each pixel by those around it ('local': radiographs of several devices). ``floors``:
    compute the trivial methods beside. ``precision`` of the network in training: the quickest is measured on the first batch and
    kept; where two trainings of one seed are to give the same bytes, name 'float32' or 'bfloat16'.
    """

    classes: tuple[str, ...] = ()
    numbers: tuple[str, ...] = ()
    helps: tuple[str, ...] = ()
    network: NETWORKS = "resnet18"
    weights: Path | None = None
    size: int = 112
    epochs: int = 30
    batch: int = 32
    learning_rate: float = 1e-3
    members: int = 1
    turns: int = 1
    pool: POOLS = "average"
    normalise: NORMALISE = "picture"
    floors: bool = True
    precision: PRECISIONS = "measure"

    def __post_init__(self) -> None:
        """Refuse a task without a target, or with an unknown helper."""
        named = {*self.classes, *self.numbers}
        if not named - set(self.helps) or not set(self.helps) <= named:
            raise StudyError(
                "there is nothing to predict" if not named - set(self.helps) else "helps names what is no target",
                got=f"classes {list(self.classes)}, numbers {list(self.numbers)}, helps {list(self.helps)}",
                expected="columns in classes or numbers; some of them in helps",
            )
        _refuse_unknown("network", self.network, NETWORKS)
        _refuse_unknown("pooling", self.pool, POOLS)
        _refuse_unknown("normalisation", self.normalise, NORMALISE)
        _refuse_unknown("precision", self.precision, PRECISIONS)
        for name, least in (("size", 8), ("epochs", 1), ("batch", 2), ("members", 1), ("turns", 1)):
            if getattr(self, name) < least:
                raise StudyError(f"{name} is out of range", got=getattr(self, name), expected=f"{least} or more")


@dataclass(frozen=True)
class Segment:
    """`[segment]`: ``structures`` are the names of labels 1, 2, … in the masks that the column ``masks`` of the images table names.

    Spacing, patch, depth and batch are planned from the data, and as many steps as fit into ``minutes`` of training. ``precision``
    of the network in training: the quickest is measured and kept.
    """

    structures: tuple[str, ...]
    masks: str = "mask_path"
    minutes: float = 30.0
    precision: PRECISIONS = "measure"

    def __post_init__(self) -> None:
        """Refuse a task without a structure or without time."""
        if not self.structures or len(set(self.structures)) < len(self.structures):
            raise StudyError("structures are one or more different names", got=list(self.structures))
        if self.minutes <= 0:
            raise StudyError("minutes is out of range", got=self.minutes, expected="above 0")
        _refuse_unknown("precision", self.precision, PRECISIONS)


@dataclass(frozen=True)
class Task:
    """A checked task file."""

    images: Pictures
    task: About = field(default_factory=About)
    split: Split = field(default_factory=Split)
    predict: Predict | None = None
    segment: Segment | None = None

    def __post_init__(self) -> None:
        """Refuse two tasks in one, or none."""
        if (self.predict is None) == (self.segment is None):
            raise StudyError(
                "the task says nowhere what to learn" if self.predict is None else "the task is two tasks",
                expected="either a section [predict] or a section [segment]",
            )
        if self.segment is not None and self.split.folds:
            raise StudyError("folds are for [predict]; a segmenter takes the shares validation and test", got=self.split.folds)
        if self.segment is not None and (self.images.targets is not None or self.images.mirror):
            got = "targets" if self.images.targets is not None else "mirror"
            raise StudyError("the section [images] has a key for [predict], which a segmenter would not use", got=got)


def _refuse_unknown(what: str, value: str, known: Any) -> None:
    """Refuse what is none of the words of ``known``."""
    if value not in get_args(known):
        raise StudyError(f"there is no such {what}", got=value, expected=", ".join(get_args(known)))


SECTIONS: dict[str, type[Any]] = {
    "task": About,
    "images": Pictures,
    "split": Split,
    "predict": Predict,
    "segment": Segment,
}


def read_task(path: str | Path) -> Task:
    """Read and check a task file; errors are those of :mod:`clinome.studies.toml_file`, each with its line."""
    found, reader = read_sections(path, SECTIONS, needed="images")
    return reader.whole(Task, found, blame=("segment", "predict", "images"))
