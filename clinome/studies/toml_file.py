"""Sections of a TOML file as frozen dataclasses, checked before anything runs; every mistake names its line.

Fields of a dataclass are the keys of its section; paths are relative to the file.
"""

from __future__ import annotations

import difflib
import glob
import re
import tomllib
import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from clinome.core.errors import StudyError

Whole = TypeVar("Whole")


def read_sections(path: str | Path, sections: Mapping[str, type[Any]], *, needed: str) -> tuple[dict[str, dict[str, Any]], Reader]:
    """Return the tables of a TOML file by section, and what turns them into the dataclasses of ``sections``.

    Raises
    ------
    StudyError
        For a file that is not there, is not UTF-8 or not TOML, for an unknown section (with the nearest known one), and where the
        section ``needed``, with its key ``path``, is missing.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise StudyError("the study file cannot be read", where=path, got=error.strerror, do="see its path and rights") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise StudyError("the study file is not UTF-8 text", where=f"{path}, line {line}", do="save it as UTF-8") from error
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise StudyError("the study file is not TOML", where=path, got=error) from error
    reader = Reader(path, text, sections)
    for name in found:
        if name in sections and not isinstance(found[name], dict):
            raise reader.error(f"{name} is a section", name, expected=f"[{name}] once, in single brackets, with its keys below")
        if name not in sections:
            raise reader.error(f"there is no section [{name}]" + _near(name, sections), name, expected=", ".join(sections))
    if needed not in found:
        raise StudyError(f"the section [{needed}] is missing", where=path, expected=f'[{needed}], and below it path = "…"')
    return found, reader


class Reader:
    """Turns the tables of sections into their dataclasses; keeps the text to name lines."""

    def __init__(self, path: Path, text: str, sections: Mapping[str, type[Any]]) -> None:
        self.path, self.lines, self.sections = path, text.splitlines(), sections

    def error(self, what: str, section: str, key: str | None = None, **about: str) -> StudyError:
        """Return an error that names the line of a section or of a key in it."""
        return StudyError(what, where=f"{self.path}, line {self._line(section, key)}", **about)

    def _line(self, section: str, key: str | None) -> int:
        inside, start = False, 1
        for number, line in enumerate(self.lines, 1):
            if header := re.match(r"\s*\[+\s*([^\]\s]+)\s*\]", line):
                inside = header[1] == section
                start = number if inside else start
            dotted = f"{section}.{key}"
            if key is not None and re.match(rf"\s*[\"']?{re.escape(key if inside else dotted)}[\"']?\s*=", line):
                return number
        return start

    def whole(self, kind: type[Whole], tables: Mapping[str, dict[str, Any]], *, blame: Sequence[str]) -> Whole:
        """Make ``kind``, whose fields are the sections, from their tables.

        Raises
        ------
        StudyError
            For an unknown or missing key, a value of the wrong type or out of range, a file that is named and does not exist, and
            sections that do not go together (at the first of ``blame`` that is there): all with the line.
        """
        made = {name: self.section(self.sections[name], table, name) for name, table in tables.items()}
        try:
            return kind(**made)
        except StudyError as error:
            raise self.error(str(error), next(name for name in blame if name in tables)) from error

    def section(self, kind: type[Any], table: dict[str, Any], section: str) -> Any:
        """Make ``kind`` from ``table``; fields that are dataclasses themselves take their keys from the same table."""
        leaves = _leaves(kind)
        for key in table:
            if key not in leaves:
                raise self.error(
                    f"there is no key {key!r} in [{section}]" + _near(key, leaves), section, key, expected=", ".join(leaves)
                )
        try:
            return self._make(kind, table, section)
        except StudyError as error:
            if "line " in str(error):
                raise
            named = next((k for k in table if re.search(rf"\b{k}\b", error.what)), None)
            raise StudyError(str(error), where=f"{self.path}, line {self._line(section, named)}") from error

    def _make(self, kind: type[Any], table: dict[str, Any], section: str) -> Any:
        hints = get_type_hints(kind)
        values: dict[str, Any] = {}
        for one in fields(kind):
            if is_dataclass(hints[one.name]):
                values[one.name] = self._make(hints[one.name], table, section)
            elif one.name in table:
                values[one.name] = self._value(table[one.name], hints[one.name], section, one.name)
            elif one.default is MISSING and one.default_factory is MISSING:
                raise self.error(f"the key {one.name!r} is missing in [{section}]", section)
        return kind(**values)

    def _value(self, value: Any, hint: Any, section: str, key: str) -> Any:
        choices = [h for h in (get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)) if h is not type(None)]
        for choice in choices:
            if get_origin(choice) is Literal:
                if value in get_args(choice):
                    return value
            elif get_origin(choice) is tuple:
                if isinstance(value, list):
                    return tuple(self._value(v, get_args(choice)[0], section, key) for v in value)
            elif choice is Path:
                if isinstance(value, str):
                    return self._file(value, section, key)
            elif choice is float and isinstance(value, (int, float)) and not isinstance(value, bool):
                return float(value)
            elif isinstance(value, choice) and not (choice is int and isinstance(value, bool)):
                return self._genotypes(value) if (section, key) == ("genotypes", "path") else value
        expected = " or ".join(_words(choice) for choice in choices)
        raise self.error(f"[{section}] {key} has a value that it cannot have", section, key, got=repr(value), expected=expected)

    def _genotypes(self, value: str) -> str:
        """Return the path or pattern of the genotypes, seen from the study file; something must match it."""
        whole = str(self.path.parent / value)
        if "*" not in value:
            return str(self._file(value, "genotypes", "path"))
        if not glob.glob(whole):  # noqa: PTH207 - absolute patterns
            do = "paths are relative to the study file"
            raise self.error("[genotypes] path is a pattern that no file matches", "genotypes", "path", got=whole, do=do)
        return whole

    def _file(self, value: str, section: str, key: str) -> Path:
        file = self.path.parent / value
        if not file.exists():
            near = difflib.get_close_matches(
                file.name, [p.name for p in file.parent.glob("*")] if file.parent.is_dir() else [], 3, 0.5
            )
            do = "paths are relative to the study file" + (f"; near it are {', '.join(near)}" if near else "")
            raise self.error(f"[{section}] {key} names a file that is not there", section, key, got=str(file), do=do)
        return file


def _leaves(kind: type[Any]) -> list[str]:
    """Name the keys of a section: the fields of its dataclass, those of nested dataclasses in their place."""
    hints = get_type_hints(kind)
    return [name for one in fields(kind) for name in (_leaves(hints[one.name]) if is_dataclass(hints[one.name]) else [one.name])]


def _near(name: str, known: Any) -> str:
    close = difflib.get_close_matches(name, list(known), 1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _words(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return " or ".join(repr(v) for v in get_args(hint))
    if get_origin(hint) is tuple:
        return f"a list of {_words(get_args(hint)[0])}"
    return {str: "text", int: "a whole number", float: "a number", bool: "true or false", Path: "the path of a file"}.get(
        hint, str(hint)
    )
