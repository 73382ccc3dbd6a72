"""Tables of text: to the terminal by rich, and as markdown into documents."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from handmesh.errors import UserError
from handmesh.wholefile import replacing

BEGIN, END = "<!-- scores: begin -->", "<!-- scores: end -->"


@dataclass(frozen=True)
class TextTable:
    """A table whose cells are ready to read; the first column is names.

    Attributes:
        title: what it is about.
        columns: their headings.
        rows: as many cells each; None draws a line.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...] | None, ...]


def to_markdown(table: TextTable) -> str:
    """The title in bold, then a table whose numbers are set to the right; no lines between rows."""
    lines = [f"**{table.title}**", "", _markdown_row(table.columns), _markdown_row(("---", *["--:"] * (len(table.columns) - 1)))]
    return "\n".join([*lines, *(_markdown_row(row) for row in table.rows if row is not None)]) + "\n"


def _markdown_row(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def to_rich(table: TextTable) -> Table:
    """The same for a terminal."""
    drawn = Table(title=table.title, title_justify="left")
    for index, column in enumerate(table.columns):
        drawn.add_column(column, justify="right" if index else "left", no_wrap=True)
    for row in table.rows:
        if row is None:
            drawn.add_section()
        else:
            drawn.add_row(*row)
    return drawn


def split_at_marks(path: Path) -> tuple[str, str]:
    """What stands before and behind the two marks of a document; nothing for one that is not there yet.

    Raises:
        UserError: a document without the marks, or one that cannot be read.
    """
    try:
        before, begin, rest = (path.read_text(encoding="utf-8") if path.exists() else f"{BEGIN}\n{END}\n").partition(BEGIN)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"expected a document, got '{path}', which cannot be read ({error}); choose another --card") from error
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise UserError(f"expected the marks {BEGIN} and {END} in '{path}', which lacks them; put them where the tables belong")
    return before, after


def write_between_marks(path: Path, text: str) -> None:
    """Put text between the two marks of a document; a new one is made of the marks and the text.

    Raises:
        UserError: as `split_at_marks`, or a document that cannot be written.
    """
    before, after = split_at_marks(path)
    try:
        with replacing(path) as temporary:
            temporary.write_text(f"{before}{BEGIN}\n{text.strip()}\n{END}{after}", encoding="utf-8")
    except OSError as error:
        raise UserError(f"expected a document that can be written, got '{path}' ({error.strerror}); choose another --card") from error
