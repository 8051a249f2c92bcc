"""What a table is: its columns, and the check that a frame keeps to them."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from clinome.core.errors import SchemaError


@dataclass(frozen=True)
class Column:
    """One column of a table: name, Polars type, meaning with unit, and whether a table may lack it or leave it empty."""

    name: str
    dtype: type[pl.DataType]
    meaning: str
    required: bool = True
    nullable: bool = True


@dataclass(frozen=True)
class Table:
    """The specification of a table.

    ``a_row_is`` says what one row stands for; ``key`` names the columns that together identify a row; ``others`` is the
    type of any further column (``None``: none are allowed).
    """

    name: str
    a_row_is: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    others: str | None = None


PERSON = Column(
    "participant_id", pl.String, "the person, as text; identifiers are never numbers (leading zeros matter)", nullable=False
)


def check(frame: pl.DataFrame, table: Table, *, where: str | None = None) -> pl.DataFrame:
    """Return ``frame`` with its columns cast to the types of ``table``, or raise what is wrong with it.

    Lossless casts (an integer column where floats are wanted) are made; everything else is an error.

    Raises
    ------
    SchemaError
        For a missing column, a type that cannot be cast, a null where none may be, a repeated key, or a column that the
        table does not know.
    """
    where = where or f"table {table.name!r}"
    known = {column.name for column in table.columns}
    casts = []
    for column in table.columns:
        if column.name not in frame.columns:
            if not column.required:
                continue
            raise SchemaError(
                f"column {column.name!r} is missing ({column.meaning})",
                where=where,
                got=", ".join(frame.columns) or "no columns",
                expected=", ".join(c.name for c in table.columns if c.required),
            )
        if column.nullable is False and frame[column.name].null_count():
            row = frame[column.name].is_null().arg_true()[0]
            raise SchemaError(
                f"column {column.name!r} has an empty value", where=f"{where}, row {row + 1}", expected=column.meaning
            )
        casts.append(pl.col(column.name).cast(column.dtype))
    extra = [name for name in frame.columns if name not in known]
    if extra and table.others is None:
        raise SchemaError(f"column {extra[0]!r} is not part of {table.name!r}", where=where, expected=", ".join(sorted(known)))
    try:
        frame = frame.with_columns(casts)
    except pl.exceptions.PolarsError as error:
        raise SchemaError(f"a column of {table.name!r} has the wrong type: {str(error).splitlines()[0]}", where=where) from error
    if table.key and frame.select(table.key).is_duplicated().any():
        twice = frame.filter(frame.select(table.key).is_duplicated()).row(0, named=True)
        raise SchemaError(
            f"{' + '.join(table.key)} must be unique",
            where=where,
            got=" ".join(str(twice[k]) for k in table.key) + " more than once",
        )
    return frame
