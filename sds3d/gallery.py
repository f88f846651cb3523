"""The gallery of many runs as one HTML page: a card a run, to be filtered, sorted by score, and opened.

The page needs no network and no server: style, script and thumbnails are inside it. A card opens the run's report.html.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from urllib.parse import quote

from sds3d import __version__
from sds3d.export import FORMATS
from sds3d.export.atomic import write_bytes
from sds3d.run import RunFolder

THUMBNAIL = "thumbnail.jpg"
"""Name of the small picture in a run folder."""
WIDTH, QUALITY = 384, 82
"""Width of a thumbnail in pixels, and its JPEG quality."""
_PARTS = Path(__file__).parent / "export" / "page"


@dataclass(frozen=True, kw_only=True)
class Card:
    """One run in the gallery.

    Args:
        prompt: what was asked for.
        status: "done", "failed" ..., one word.
        link: where a click leads, relative to the page; "" for nowhere.
        picture: bytes of a JPEG, None if there is none.
        scores: numbers to sort by, larger is not always better; names are shown.
        facts: short texts below the prompt (seed, recipe, seconds).
        problem: why it failed.
    """

    prompt: str
    status: str = "done"
    link: str = ""
    picture: bytes | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)
    problem: str = ""


def write_gallery(path: Path, cards: Sequence[Card], title: str) -> Path:
    """Write the page to `path` and return it. Raises: AssetError if it cannot be written."""
    names = sorted({name for card in cards for name in card.scores})
    style = "".join((_PARTS / name).read_text(encoding="utf-8") for name in ("page.css", "gallery.css"))
    script = (_PARTS / "gallery.js").read_text(encoding="utf-8")
    head = '<meta charset="utf-8">\n<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    # "data:," keeps browsers from asking for an icon.
    head += f'<title>{escape(title)}</title>\n<link rel="icon" href="data:,">\n<style>\n{style}</style>'
    body = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="soft" id="count">{escape(_counts(cards))}</p>',
        _controls(cards, names),
        '<div class="cards" id="cards">',
        *(_card(number, card) for number, card in enumerate(cards)),
        "</div>",
        '<p class="soft" id="none" hidden>No asset fits the filter.</p>',
        f'<p class="soft">Written by sds3d {escape(__version__)}.</p>',
        f"<script>\n{script}</script>",
    ]
    page = f'<!doctype html>\n<html lang="en">\n<head>\n{head}\n</head>\n<body class="gallery">\n'
    page += "\n".join(body) + "\n</body>\n</html>\n"
    return write_bytes(path, page.encode("utf-8", "replace"))


def _counts(cards: Sequence[Card]) -> str:
    counts = {status: sum(card.status == status for card in cards) for status in _statuses(cards)}
    return f"{len(cards)} assets: " + ", ".join(f"{count} {status}" for status, count in counts.items())


def _statuses(cards: Sequence[Card]) -> list[str]:
    return list(dict.fromkeys(card.status for card in cards))


def _controls(cards: Sequence[Card], names: Sequence[str]) -> str:
    statuses = "".join(f"<option>{escape(status)}</option>" for status in _statuses(cards))
    sorts = "".join(
        f'<option value="{escape(json.dumps([name, sign]))}">{escape(_words(name))}, {text} first</option>'
        for name in names
        for sign, text in ((-1, "highest"), (1, "lowest"))
    )
    return (
        '<div class="bar controls"><label>Filter <input id="filter" type="search" placeholder="words of the prompt"></label>'
        f'<label>Show <select id="status"><option value="">all</option>{statuses}</select></label>'
        '<label>Sort <select id="sort"><option value="">as in the list</option>'
        f'<option value="prompt">by prompt</option>{sorts}</select></label></div>'
    )


def _card(number: int, card: Card) -> str:
    """Return the HTML of a card; what the script needs is in its data attributes."""
    picture = '<span class="empty">no picture</span>'
    if card.picture is not None:
        data = base64.b64encode(card.picture).decode()
        picture = f'<img alt="{escape(card.prompt[:200])}" src="data:image/jpeg;base64,{data}">'
    opened = f'<a class="picture" href="{escape(quote(card.link))}">{picture}</a>' if card.link else picture
    scores = "".join(f"<li>{escape(_words(name))} <b>{value:.4g}</b></li>" for name, value in card.scores.items())
    facts = " · ".join(f"{escape(name)} {escape(value)}" for name, value in card.facts.items())
    problem = f'<p class="problem">{escape(card.problem[:1000])}</p>' if card.problem else ""
    status = "" if card.status == "done" else f'<span class="status">{escape(card.status)}</span> '
    return (
        f'<article class="card" data-number="{number}" data-status="{escape(card.status)}" '
        f'data-scores="{escape(json.dumps(dict(card.scores)))}">{opened}'
        f'<h2>{status}{escape(_shortened(card.prompt))}</h2><p class="soft">{facts}</p>{problem}'
        f'<ul class="scores">{scores}</ul></article>'
    )


def _shortened(prompt: str) -> str:
    text = " ".join(prompt.split())
    return text if len(text) <= 160 else f"{text[:160]}..."


def _words(name: str) -> str:
    return name.replace("_", " ").replace(".", ": ")


def write_thumbnail(run: RunFolder) -> Path | None:
    """Write thumbnail.jpg of a run: its contact sheet, or its newest preview; return None if it has neither."""
    data = thumbnail(run)
    return None if data is None else write_bytes(run.path / THUMBNAIL, data)


def thumbnail(run: RunFolder) -> bytes | None:
    """Return the small picture of a run as JPEG, made anew if there is none yet; None if it has no picture at all."""
    stored = run.path / THUMBNAIL
    if stored.is_file():
        return stored.read_bytes()
    previews = sorted(run.previews.glob("*.png")) if run.previews.is_dir() else []
    sheet = run.export / FORMATS["png"].file_name
    source = sheet if sheet.is_file() else previews[-1] if previews else None
    return None if source is None else _small(source)


def _small(file: Path) -> bytes | None:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(file) as opened:
            picture = opened.convert("RGB")
    except (OSError, UnidentifiedImageError):
        return None
    if picture.width > WIDTH:
        picture = picture.resize(
            (WIDTH, max(1, round(picture.height * WIDTH / picture.width))), Image.Resampling.LANCZOS
        )
    data = io.BytesIO()
    picture.save(data, "JPEG", quality=QUALITY, optimize=True)
    return data.getvalue()
