"""A table as values, and its four renderings: Markdown, LaTeX, the terminal, and (by the page's template)
HTML."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import rich.box
from rich.table import Table as RichTable
from rich.text import Text


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
        """A booktabs table; needs \\usepackage{booktabs} and nothing else."""

        def line(entries: Sequence[Entry]) -> str:
            texts = [_tex(e.text) for e in entries]
            bold = [f"\\textbf{{{t}}}" if e.bold else t for t, e in zip(texts, entries, strict=True)]
            marks = [f"$^{{{_tex_mark(e.note)}}}$" if e.note else "" for e in entries]
            return " & ".join(b + m for b, m in zip(bold, marks, strict=True)) + r" \\"

        footers = [r"\midrule", *map(line, self.footers)] if self.footers else []
        return "\n".join(
            [
                r"\begin{table}",
                r"\centering",
                rf"\caption{{{_tex(self.title)}}}",
                rf"\begin{{tabular}}{{l{'r' * (len(self.columns) - 1)}}}",
                r"\toprule",
                " & ".join(map(_tex, self.columns)) + r" \\",
                r"\midrule",
                *map(line, self.rows),
                *footers,
                r"\bottomrule",
                r"\end{tabular}",
                *(rf"\par\smallskip\footnotesize {_tex(note)}" for note in self.notes),
                r"\end{table}",
                "",
            ]
        )

    def rich(self) -> RichTable:
        """For the terminal."""
        table = RichTable(
            title=self.title,
            box=rich.box.SIMPLE_HEAD,
            title_justify="left",
            caption_justify="left",
            padding=(0, 1, 0, 0),
        )
        for index, column in enumerate(self.columns):
            table.add_column(column, justify="left" if index == 0 else "right", no_wrap=index == 0)
        for row in self.rows:
            table.add_row(*map(_terminal, row))
        if self.rows and self.footers:
            table.add_section()
        for row in self.footers:
            table.add_row(*map(_terminal, row), style="dim")
        table.caption = "\n".join(self.notes) or None
        return table


def csv_text(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Rows as CSV; a float is written to its last digit, NaN and None as nothing."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow(["" if v is None or (isinstance(v, float) and math.isnan(v)) else v for v in row])
    return out.getvalue()


def _terminal(entry: Entry) -> Text:
    return Text(entry.text.replace(" ± ", " ±"), style="bold" if entry.bold else "dim" if entry.faint else "").append(
        entry.note
    )


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
    "–": "--",
    "−": "$-$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "†": r"$^{\dagger}$",
    "‡": r"$^{\ddagger}$",
    "§": r"\S{}",
    "×": r"$\times$",
    "<": r"$<$",
    ">": r"$>$",
    "\N{NO-BREAK SPACE}": "~",
}
_TEX_MARKS = {"†": r"\dagger", "‡": r"\ddagger", "§": r"\S"}


def _tex(text: str) -> str:
    return "".join(_TEX.get(char, char) for char in text)


def _tex_mark(mark: str) -> str:
    return "".join(_TEX_MARKS.get(char, _tex(char)) for char in mark.strip())
