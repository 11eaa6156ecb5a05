"""A table as values, and its four renderings: Markdown, LaTeX, the terminal, and (by the page's template)
HTML."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from rich.text import Text

from voxbench.reports.tables.fitted import Fitted


@dataclass(frozen=True)
class Entry:
    """One cell of a table: plain text with its marks. `note` marks stand raised behind the text."""

    text: str
    bold: bool = False
    note: str = ""
    faint: bool = False

    @property
    def plain(self) -> str:
        """The text with its mark."""
        return self.text + self.note


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table that people read. The first column is text, the others are numbers.

    `footers` are rows that do not compete (no skill, published numbers); `notes` explain the marks.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Entry, ...], ...]
    footers: tuple[tuple[Entry, ...], ...] = ()
    notes: tuple[str, ...] = ()

    def markdown(self) -> str:
        """A GitHub table with a heading and notes."""

        def line(entries: Sequence[Entry]) -> str:
            texts = [f"**{e.text}**{e.note}" if e.bold else e.plain for e in entries]
            return "| " + " | ".join(text.replace("|", "\\|") for text in texts) + " |"

        rule = "| " + " | ".join(["---", *["---:"] * (len(self.columns) - 1)]) + " |"
        lines = [f"### {self.title}", "", "| " + " | ".join(self.columns) + " |", rule]
        lines += [line(row) for row in (*self.rows, *self.footers)]
        return "\n".join([*lines, *(f"\n{note}" for note in self.notes), ""])

    def latex(self) -> str:
        """A booktabs table, small enough for a text width of 345 pt (article); needs \\usepackage{booktabs} alone."""

        def line(entries: Sequence[Entry]) -> str:
            return " & ".join(_tex_entry(e, mark) for e, mark in zip(entries, marks, strict=True)) + r" \\"

        rows = [*self.rows, *self.footers]
        widths = self._widths()
        marks = ["".join(dict.fromkeys("".join(row[i].note for row in rows))) for i in range(len(self.columns))]
        footers = [r"\midrule", *map(line, self.footers)] if self.footers else []
        heads = [_tex_head(name, width) for name, width in zip(self.columns, widths, strict=True)]
        notes = [rf"\par\smallskip {_tex(note)}" for note in self.notes]
        return "\n".join(
            [
                r"\begin{table}[htbp]",
                r"\centering",
                rf"\caption{{{_tex(self.title)}}}",
                r"\smallskip",
                _tex_size(sum(widths) + 2 * len(widths)),
                rf"\begin{{tabular}}{{@{{}}l{'r' * (len(self.columns) - 1)}@{{}}}}",
                r"\toprule",
                " & ".join(heads) + r" \\",
                r"\midrule",
                *map(line, self.rows),
                *footers,
                r"\bottomrule",
                r"\end{tabular}",
                *(
                    [r"\par\begin{minipage}{\linewidth}\footnotesize\raggedright", *notes, r"\end{minipage}"]
                    * bool(notes)
                ),
                r"\end{table}",
                "",
            ]
        )

    def _widths(self) -> list[int]:
        """Characters of each column: of its longest entry, or of the longest word of its heading."""
        rows = [*self.rows, *self.footers]
        return [
            max(min(len(column), 11), *(len(word) for word in column.split()), *(len(row[i].plain) for row in rows))
            for i, column in enumerate(self.columns)
        ]

    def rich(self) -> Fitted:
        """For the terminal, as wide as it may be."""
        return Fitted(
            title=self.title,
            columns=self.columns,
            rows=tuple(tuple(map(_terminal, row)) for row in self.rows),
            footers=tuple(tuple(map(_terminal, row)) for row in self.footers),
            notes=self.notes,
        )


def csv_text(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Rows as CSV; a float is written to its last digit, NaN and None as nothing."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow(["" if v is None or (isinstance(v, float) and math.isnan(v)) else v for v in row])
    return out.getvalue()


def _terminal(entry: Entry) -> Text:
    text = entry.text.replace(" ± ", " ±")  # saves a column
    return Text(text + entry.note, style="bold" if entry.bold else "dim" if entry.faint else "")


_TEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "→": r"$\rightarrow$",
    "–": "--",
    "−": "$-$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "†": r"$^{\dagger}$",
    "‡": r"$^{\ddagger}$",
    "§": r"\S{}",
    "¶": r"\P{}",
    "×": r"$\times$",
    "<": r"$<$",
    ">": r"$>$",
    "\N{NO-BREAK SPACE}": "~",
}
_TEX_MARKS = {"†": r"\dagger", "‡": r"\ddagger", "§": r"\S", "¶": r"\P"}


def _tex(text: str) -> str:
    return "".join(_TEX.get(char, char) for char in text).replace(r" \%", r"~\%")


def _tex_entry(entry: Entry, marks: str) -> str:
    """An entry with its marks, and room for the others of its column, so that digits stand below digits."""
    text = rf"\textbf{{{_tex(entry.text)}}}" if entry.bold else _tex(entry.text)
    absent = "".join(mark for mark in marks if mark not in entry.note)
    room = rf"\phantom{{$^{{{_tex_mark(absent)}}}$}}" if absent else ""
    return text + (f"$^{{{_tex_mark(entry.note)}}}$" if entry.note else "") + room


def _tex_head(name: str, width: int) -> str:
    """A heading in as many lines as keep it within `width` characters."""
    lines: list[str] = []
    for word in re.split(r" (?![%§=])(?<!= )", name):
        if lines and len(lines[-1]) + 1 + len(word) <= max(width, 11):
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    joined = r"\\".join(map(_tex, lines))
    return joined if len(lines) == 1 else rf"\shortstack[r]{{{joined}}}"


def _tex_size(characters: int) -> str:
    """Type and gaps for a table of so many characters, gaps included."""
    sizes = ((68, r"\normalsize", 6), (76, r"\small", 5), (86, r"\footnotesize", 4))
    size, gap = next(((size, gap) for most, size, gap in sizes if characters <= most), (r"\scriptsize", 3))
    return rf"{size}\setlength{{\tabcolsep}}{{{gap}pt}}"


def _tex_mark(mark: str) -> str:
    return "".join(_TEX_MARKS.get(char, _tex(char)) for char in mark.strip())
