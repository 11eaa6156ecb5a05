"""The contact sheet: one self-contained page on which a person sees in a minute whether it worked."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from html import escape

from voxbench.datasets.prepare.quality import SIDES
from voxbench.datasets.prepare.store import Record

STYLE = """
:root { color-scheme: light dark; --line: #8884; --bad: #c0302c; }
body { font: 15px/1.45 system-ui, sans-serif; max-width: 1060px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: .3rem; }
article { border-top: 1px solid var(--line); padding: .9rem 0; break-inside: avoid; }
h2 { font-size: 1rem; margin: 0 0 .4rem; font-family: ui-monospace, monospace; }
img { width: 100%; height: auto; background: #000; display: block; border-radius: 4px; }
dl { display: grid; grid-template-columns: 5rem 1fr; gap: .1rem .8rem; margin: .5rem 0 0; }
dt { font-weight: 600; } dd { margin: 0; font-variant-numeric: tabular-nums; }
.left { color: #2b7bb0; } .right { color: #b06f00; } .bad { color: var(--bad); font-weight: 600; }
.note { opacity: .75; }
"""


def page(records: Mapping[str, Record], failures: Mapping[str, str], pictures: Mapping[str, bytes]) -> str:
    """HTML; refused and failed heads come first, for they want looking at."""

    def refused(code: str) -> int:
        return sum(bool(records[code]["sides"][side]["refused"]) for side in SIDES)

    order = sorted(records, key=lambda code: (-refused(code), code))
    taken = sum(2 - refused(code) for code in records)
    body = [
        f"<p>{len(records) + len(failures)} heads: {taken} sinuses cropped, "
        f"{2 * (len(records) + len(failures)) - taken} refused.</p>",
        '<p class="note">From left to right: axial, coronal, sagittal through the left and through the right sinus, in '
        "the head's axes, the patient's left on the left. Both boxes should lie around the maxillary "
        "sinuses. A red, crossed box was refused; grey lies outside the scan.</p>",
    ]
    for code, why in sorted(failures.items()):
        body.append(f'<article><h2>{escape(code)}</h2><p class="bad">not read: {escape(why)}</p></article>')
    body += [entry(records[code], pictures[code]) for code in order]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Prepared sinuses</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}</style></head><body><h1>Prepared sinuses</h1>{''.join(body)}</body></html>\n"
    )


def entry(record: Record, picture: bytes) -> str:
    """One head."""
    head = record["head"]
    spacing = " x ".join(f"{s:g}" for s in record["spacing"])
    facts = (
        f"{record['intensity']['rule']}; voxels {spacing} mm; mutual information {head['information']:.2f} nats, "
        f"stretches {', '.join(f'{s:.2f}' for s in head['stretches'])}, turned {head['turn']:.0f}°"
    )
    lines = "".join(f"<dt class='{side}'>{side}</dt><dd>{side_line(record['sides'][side])}</dd>" for side in SIDES)
    notes = "".join(f"<p class='note'>{escape(note)}</p>" for note in record["notes"])
    data = base64.b64encode(picture).decode()
    return (
        f"<article><h2>{escape(record['code'])}</h2>"
        f'<img alt="planes of {escape(record["code"])} with both boxes" src="data:image/jpeg;base64,{data}">'
        f"<dl><dt>head</dt><dd>{escape(facts)}</dd>{lines}</dl>{notes}</article>"
    )


def side_line(side: Mapping[str, object]) -> str:
    """One side's figures, and why it was refused."""
    reasons = side["refused"]
    facts = (
        f"sinus inside the scan {float(str(side['inside'])):.0%}, tissue around it {float(str(side['tissue'])):.0%}, "
        f"likeness there {float(str(side['likeness'])):.2f} nats, "
        f"two registrations {float(str(side['agreement'])):.1f} mm apart"
    )
    if isinstance(reasons, list) and reasons:
        return f'<span class="bad">refused: {escape("; ".join(reasons))}</span><br>{facts}'
    return facts
