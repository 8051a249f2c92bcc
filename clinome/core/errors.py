"""The error tree: one class per cause, each message saying what, where, got, expected, and what to do.

    ClinomeError
    ├── FormatError        a file's bytes are not what its format promises (truncated, wrong magic, unreadable record)
    ├── SchemaError        a table lacks a column, or a column has the wrong type or a forbidden value
    ├── CohortError        people cannot be linked, split or analysed as asked (no overlap, duplicated ids, nobody left)
    ├── TraitError         a trait or covariate cannot be analysed as asked (constant, all missing, infinite)
    ├── StudyError         a study file or a command's options contradict themselves or name something that is not there
    ├── OutputError        a result cannot be written (folder not writable, made by another run)
    ├── NotConverged       an iteration ended without an answer, or a loss stopped being finite
    └── MissingExtra       an optional library is not installed; the message holds the command that installs it

Raise with the keywords of :class:`ClinomeError`; the command line prints the message alone, without a traceback.
"""

from __future__ import annotations

import importlib
from os import PathLike
from types import ModuleType


class ClinomeError(Exception):
    """An error a user can act on.

    Parameters
    ----------
    what
        One sentence: what went wrong.
    where
        File and place in it (line, byte, variant, column), when there is one.
    got, expected
        What was found and what should have been, when that says more than ``what``.
    do
        The next step for the user.

    Example
    -------
    >>> print(ClinomeError("the file ends early", where="a.bed", got="10 bytes", expected="30 bytes", do="copy it again"))
    the file ends early
      where:    a.bed
      got:      10 bytes
      expected: 30 bytes
      do:       copy it again
    """

    def __init__(
        self,
        what: str,
        *,
        where: str | PathLike[str] | None = None,
        got: object = None,
        expected: object = None,
        do: str | None = None,
    ) -> None:
        lines = [what]
        for name, value in (("where", where), ("got", got), ("expected", expected), ("do", do)):
            if value is not None:
                lines.append(f"  {name + ':':<9} {value}")
        super().__init__("\n".join(lines))
        self.what = what

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        """Travel between processes with the full message."""
        return _rebuild, (type(self), str(self))


def _rebuild(kind: type[ClinomeError], message: str) -> ClinomeError:
    return kind(message)


class FormatError(ClinomeError):
    """A file's bytes are not what its format promises."""


class SchemaError(ClinomeError):
    """A table does not have the columns, types or values that its schema names."""


class CohortError(ClinomeError):
    """People cannot be linked, split or analysed as asked."""


class TraitError(ClinomeError):
    """A trait or covariate cannot be analysed as asked."""


class StudyError(ClinomeError):
    """A study file or a command's options are wrong."""


class OutputError(ClinomeError):
    """A result cannot be written where it was asked for."""


class NotConverged(ClinomeError):
    """An iteration ended without an answer."""


class MissingExtra(ClinomeError):
    """An optional library is not installed."""


def need(module: str, extra: str) -> ModuleType:
    """Import an optional ``module`` where it is used, or say which extra of Clinome brings it.

    Example
    -------
    >>> need("math", "genetics").sqrt(4)
    2.0
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtra(
            f"this step needs the Python package {module!r}, which cannot be imported ({error})",
            do=f"pip install 'clinome[{extra}]'",
        ) from error
