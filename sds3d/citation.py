"""One published work: a readable line and a BibTeX entry."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Citation:
    """A published work.

    Args:
        authors: full names, in order, joined with " and " as BibTeX wants them.
        venue: conference or journal, "" for a preprint.
        is_article: whether the venue is a journal.
        arxiv: identifier such as "2209.14988", "" if there is none.
    """

    key: str
    title: str
    authors: str
    year: int
    venue: str = ""
    is_article: bool = False
    arxiv: str = ""

    @property
    def line(self) -> str:
        """One readable line: first author, title, venue, year, identifier."""
        first, *others = _without_latex(self.authors).split(" and ")
        who = f"{first} et al." if others else first
        where = ", ".join(part for part in (self.venue, str(self.year)) if part)
        return f"{who}: {self.title}. {where}" + (f". arXiv:{self.arxiv}" if self.arxiv else "")

    @property
    def bibtex(self) -> str:
        """The BibTeX entry."""
        rows = [("title", f"{{{self.title}}}"), ("author", self.authors), ("year", str(self.year))]
        rows += [("journal" if self.is_article else "booktitle", self.venue)] if self.venue else []
        rows += [("eprint", self.arxiv), ("archivePrefix", "arXiv")] if self.arxiv else []
        body = "".join(f"  {name} = {{{value}}},\n" for name, value in rows)
        kind = "article" if self.is_article else "inproceedings" if self.venue else "misc"
        return f"@{kind}{{{self.key},\n{body}}}"


_ACCENTS = {'"': "\u0308", "'": "\u0301", "`": "\u0300", "^": "\u0302", "~": "\u0303"}


def _without_latex(text: str) -> str:
    """Return `text` with the accents of BibTeX, such as {\\"o}, as letters."""
    letters = re.sub(r"\{\\([\"'`^~])\\?(\w)\}", lambda found: found[2] + _ACCENTS[found[1]], text)
    return unicodedata.normalize("NFC", letters)
