"""The task file: what it makes, and that every mistake names its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from clinome.core.errors import StudyError
from clinome.studies.task_file import SECTIONS, Predict, Segment, Split, Task, read_task


def write(folder: Path, text: str) -> Path:
    (folder / "scans.csv").touch()
    path = folder / "task.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_task_of_each_kind(tmp_path: Path) -> None:
    head = '[images]\npath = "scans.csv"\n[task]\nseed = 7\n'
    task = read_task(
        write(tmp_path, head + '[split]\nfolds = 5\n[predict]\nclasses = ["sex"]\nnumbers = ["age"]\nhelps = ["age"]\n')
    )
    assert (task.task.seed, task.split.folds) == (7, 5)
    assert task.predict == Predict(("sex",), ("age",), ("age",))
    assert task.images.path == tmp_path / "scans.csv"
    task = read_task(write(tmp_path, head + '[segment]\nstructures = ["head", "body"]\nminutes = 2\n'))
    assert task.segment == Segment(("head", "body"), minutes=2.0)
    assert set(SECTIONS) == set(Task.__dataclass_fields__)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[predict]\nclasses = ["a"]\n', r"section \[images\] is missing"),
        ('[images]\npath = "scans.csv"\n', r"(?s)says nowhere what to learn.*\[predict\] or a section \[segment\]"),
        ('[images]\npath = "scans.csv"\n[predict]\nclases = ["a"]\n', r"(?s)no key 'clases'.*did you mean 'classes'.*line 4"),
        ('[images]\npath = "scan.csv"\n[predict]\nclasses = ["a"]\n', r"(?s)file that is not there.*line 2.*near it are scans.csv"),
        ('[images]\npath = "scans.csv"\n[predict]\nclasses = []\n', r"(?s)nothing to predict"),
        (
            '[images]\npath = "scans.csv"\n[predict]\nclasses = ["a"]\nnetwork = "vgg"\n',
            r"(?s)\[predict\] network.*line 5.*'vgg'.*resnet18",
        ),
        (
            '[images]\npath = "scans.csv"\n[split]\ntest = 1.5\n[predict]\nclasses = ["a"]\n',
            r"(?s)leave somebody to learn from.*line 4",
        ),
        ('[images]\npath = "scans.csv"\n[split]\nfolds = 1\n[predict]\nclasses = ["a"]\n', r"(?s)folds is out of range.*line 4"),
        (
            '[images]\npath = "scans.csv"\n[segment]\nstructures = ["a", "a"]\n',
            r"(?s)structures are one or more different names.*line 4",
        ),
        ('[images]\npath = "scans.csv"\n[split]\nfolds = 3\n[segment]\nstructures = ["a"]\n', r"folds are for \[predict\]"),
        (
            '[images]\npath = "scans.csv"\n[split]\nfolds = 3\ntest = 0.2\n[predict]\nclasses = ["a"]\n',
            r"(?s)would not be used.*validation None and test 0.2 beside folds.*line 5",
        ),
        (
            '[images]\npath = "scans.csv"\n[split]\npath = "scans.csv"\nvalidation = 0.15\n[predict]\nclasses = ["a"]\n',
            r"(?s)would not be used.*validation 0.15 and test None beside path.*line 5",
        ),
        (
            '[images]\npath = "scans.csv"\ntargets = "scans.csv"\n[segment]\nstructures = ["a"]\n',
            r"(?s)a segmenter would not use.*got: +targets",
        ),
        (
            '[images]\npath = "scans.csv"\nmirror = true\n[segment]\nstructures = ["a"]\n',
            r"(?s)a segmenter would not use.*got: +mirror",
        ),
        (
            '[images]\npath = "scans.csv"\n[segment]\nstructures = ["a"]\nprecision = "half"\n',
            r"(?s)\[segment\] precision.*line 5.*'half'.*float32",
        ),
        ('[images]\npath = "scans.csv"\n[predict]\nclasses = ["a"]\n[segment]\nstructures = ["a"]\n', r"two tasks"),
    ],
)
def test_mistakes_name_their_line(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(StudyError, match=says):
        read_task(write(tmp_path, text))


def test_shares_leave_somebody_to_learn_from() -> None:
    assert (Split().shares, Split(test=0.5).shares) == ((0.15, 0.2), (0.15, 0.5))
    with pytest.raises(StudyError, match="leave somebody"):
        Split(validation=0.5, test=0.5)


def test_pooling_is_average_or_attention(tmp_path: Path) -> None:
    from clinome.studies.picture_tasks import _network

    for network in ("resnet18", "densenet121", "inception_v3"):
        assert _network(Predict(("kind",), network=network, pool="attention"), 2).pool == "attention"  # type: ignore[arg-type]
    with pytest.raises(StudyError, match=r"(?s)no such pooling.*average, attention"):
        Predict(("kind",), pool="max")  # type: ignore[arg-type]
    with pytest.raises(StudyError, match=r"(?s)no such normalisation.*picture, local"):
        Predict(("kind",), normalise="histogram")  # type: ignore[arg-type]
    for kind in (Predict, Segment):
        with pytest.raises(StudyError, match=r"(?s)no such precision.*measure, float32, bfloat16"):
            kind(("kind",), precision="half")  # type: ignore[arg-type]
