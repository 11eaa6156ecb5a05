"""A table on a terminal of any width: whole, in parts of fewer columns, or a block a row. Nothing is ever cut."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import rich.box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table as RichTable
from rich.text import Text

from voxbench.reports.tables.characters import plain

Row = tuple[Text, ...]
GAP = 2  # between columns
_ASCII_HEAD = rich.box.Box("    \n    \n -- \n    \n -- \n -- \n    \n    \n", ascii=True)  # of SIMPLE_HEAD
NARROWEST_PROSE = 24  # a column of words that is narrower is hard to read


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A table for rich's `Console.print`. The first column names the row; an entry stays on one line.

    `footers` are rows that do not compete. Columns in `prose` hold words, which go over as many lines as they need.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    footers: tuple[Row, ...] = ()
    notes: tuple[str, ...] = ()
    prose: frozenset[int] = frozenset()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        shown = self._in(options.encoding)
        if shown.title:
            yield Text(shown.title, style="italic", overflow="fold")
        parts = shown._parts(options.max_width)
        if parts is None:
            yield from shown._blocks(options.max_width)
        else:
            for number, widths in enumerate(parts):
                if number:
                    yield ""
                yield shown._part(widths, _ASCII_HEAD if options.ascii_only else rich.box.SIMPLE_HEAD)
        if shown.notes:
            yield ""
        for note in shown.notes:
            yield Text(note, style="dim", overflow="fold")

    def _in(self, encoding: str) -> Fitted:
        """The same in characters that the terminal has, so that they are counted as they will stand there."""

        def entries(rows: Sequence[Row]) -> tuple[Row, ...]:
            return tuple(tuple(Text(plain(entry.plain, encoding), style=entry.style) for entry in row) for row in rows)

        return Fitted(
            title=plain(self.title, encoding),
            columns=tuple(plain(column, encoding) for column in self.columns),
            rows=entries(self.rows),
            footers=entries(self.footers),
            notes=tuple(plain(note, encoding) for note in self.notes),
            prose=self.prose,
        )

    def _parts(self, width: int) -> list[dict[int, int]] | None:
        """Columns and their widths, a mapping a table; None where not even two columns fit beside each other."""
        if self.prose:
            widths = self._with_prose(width)
            return None if widths is None else [widths]
        needed = [self._needed(index) for index in range(len(self.columns))]
        if (len(needed) > 1 and needed[0] + GAP + max(needed[1:]) > width) or needed[0] > width:
            return None
        parts = [{0: needed[0]}]
        for index in range(1, len(needed)):
            if sum(parts[-1].values()) + GAP * len(parts[-1]) + needed[index] > width:
                parts.append({0: needed[0]})
            parts[-1][index] = needed[index]
        return parts

    def _with_prose(self, width: int) -> dict[int, int] | None:
        """Columns of words share what the others leave, each as much as it can use."""
        fixed = {i: self._needed(i) for i in range(len(self.columns)) if i not in self.prose}
        left = width - sum(fixed.values()) - GAP * (len(self.columns) - 1)
        shares = dict(fixed)
        waiting = sorted(self.prose, key=self._whole)
        while waiting:
            index = waiting.pop(0)
            shares[index] = min(self._whole(index), left // (len(waiting) + 1))
            if shares[index] < min(self._whole(index), max(NARROWEST_PROSE, self._longest_word(index))):
                return None
            left -= shares[index]
        return dict(sorted(shares.items()))

    def _entries(self, index: int) -> Iterator[str]:
        return (row[index].plain for row in (*self.rows, *self.footers))

    def _whole(self, index: int) -> int:
        return max(map(cell_len, (self.columns[index], *self._entries(index))))

    def _needed(self, index: int) -> int:
        """Entries stay whole; a heading may go over several lines."""
        return max(map(cell_len, (*self.columns[index].split(), *self._entries(index), "")))

    def _longest_word(self, index: int) -> int:
        return max((cell_len(word) for entry in self._entries(index) for word in entry.split()), default=0)

    def _part(self, widths: dict[int, int], box: rich.box.Box) -> RichTable:
        # Of the gap, one blank is the box's.
        table = RichTable(box=box, show_edge=False, pad_edge=False, padding=(0, GAP - 1, 0, 0))
        for index, width in widths.items():
            to_left = index == 0 or index in self.prose
            heading = self.columns[index]
            table.add_column(heading, justify="left" if to_left else "right", width=width, overflow="fold")
        for row in self.rows:
            table.add_row(*(row[index] for index in widths))
        if self.rows and self.footers:
            table.add_section()
        for row in self.footers:
            table.add_row(*(row[index] for index in widths), style="dim")
        return table

    def _blocks(self, width: int) -> Iterator[Text]:
        for row in (*self.rows, *self.footers):
            yield Text(row[0].plain, style="bold", overflow="fold")
            for heading, entry in zip(self.columns[1:], row[1:], strict=True):
                beside = cell_len(f"  {heading}: {entry.plain}") <= width or cell_len(entry.plain) > width - 4
                if entry.plain:
                    yield Text.assemble(f"  {heading}:", " " if beside else "\n    ", entry, overflow="fold")
