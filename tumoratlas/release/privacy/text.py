"""Private words in a text: names, numbers and dates of a dictionary, and what looks like such."""

import html
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from itertools import permutations
from urllib.parse import unquote

Tokens = tuple[str, ...]

# Words, numbers, and texts whose parts mean nothing: digests, UUIDs, UIDs and decimal fractions.
# Chinese, Japanese and Korean are written without spaces: each sign stands for itself.
_UNSPACED = "\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff"
_TOKEN = re.compile(
    r"(?<![0-9A-Za-z])(?:[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
    r"|p?(?=\d*[a-f])(?=[a-f]*\d)[0-9a-f]{16,})(?![0-9A-Za-z])"
    r"|(?<![\d.])\d+(?:\.\d+){5,}|(?<![\w.])\d{1,6}\.\d+(?!\w|\.\d)"
    rf"|[{_UNSPACED}]|[^\W\d_{_UNSPACED}]+|\d+"
)
_HUMP = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_PATTERNS = {
    "person name": re.compile(r"[^\W\d_]{2,}\^+[^\W\d_][\w^]*"),
    "e-mail": re.compile(r"[A-Za-z0-9._%+-]+@(?:[A-Za-z0-9-]+\.)+[A-Za-z]{2,}"),
    "UID": re.compile(r"(?<![\w.])(?:2\.25\.\d{10,39}|[012](?:\.\d+){4,})(?!\w)"),
    "phone number": re.compile(
        r"(?<![\w.])\+\d{1,3}(?:[ -]\(?\d{2,5}\)?){2,4}(?!\w)|(?<![\w.])\+\d{10,15}(?![\w.])"
        r"|(?<![\w.-])(?:\(\d{3}\) ?|\d{3}-)\d{3}-\d{4}(?![\w-])"
        r"|(?i:\b(?:tel|telefon|phone|fax)\b)[.: ]{1,3}[+(]?\d[\d ()/-]{5,}"
    ),
    "social security number": re.compile(
        r"(?<![\w.-])(?!000|666|9)\d{3}-(?!00)\d\d-(?!0000)\d{4}(?![\w-])"
    ),
}
_SHORTEST_UID = 16
# Classes, transfer syntaxes and frames that DICOM itself defines (PS3.6 annex A).
_STANDARD_UID = "1.2.840.10008."
# Parts of a phrase stand close: "Doe, Jane", "DOE^^JANE"; digits, as of a date, closer.
_GAP, _NUMBER_GAP = 3, 1
_DATE_GAPS = set("-./_ ")
# Longer words are found inside of others too, as in "jmiller2".
_SHORTEST_INSIDE = 6
# In noise shorter words occur by chance.
_SHORTEST_IN_NOISE, _SHORTEST_PATTERN_IN_NOISE = 5, 8
_UMLAUTS = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "Ä": "Ae", "Ö": "Oe", "Ü": "Ue"})
_MONTHS = (
    *("january", "february", "march", "april", "may", "june", "july", "august", "september"),
    *("october", "november", "december"),
)


@dataclass(frozen=True)
class Match:
    """A private word in a text (as `normal` gives it): where, its kind, and its term."""

    start: int
    end: int
    kind: str
    term: str


def normal(text: str) -> str:
    r"""Return a text without escapes (``&uuml;``, ``%5E``, ``\u005e``) and without accents."""
    if "&" in text:
        text = html.unescape(text)
    if "%" in text:
        text = unquote(text)
    if "\\" in text:
        text = re.sub(
            r"\\(?:u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2}))",
            lambda match: chr(int(match[1] or match[2], 16)),
            text,
        )
    if not text.isascii():
        text = unicodedata.normalize("NFKD", text)
        text = "".join(sign for sign in text if not unicodedata.combining(sign))
    return text


def tokens_of(text: str) -> Tokens:
    """Return the words and numbers of a text in lower case."""
    return tuple(match[0].casefold() for match in _TOKEN.finditer(normal(text)))


class Dictionary:
    """Private terms, found in any of their spellings.

    Parameters
    ----------
    terms
        Names, numbers and dates. ``DOE^JANE`` is found as ``Doe, Jane``, ``jane_doe`` and
        ``JaneDoe``; ``19580314`` as ``1958-03-14``, ``14.03.1958`` and ``March 14, 1958``.
    allow
        Terms, and texts that look private, which are none.
    """

    def __init__(self, terms: Iterable[str], allow: Iterable[str] = ()) -> None:
        self._allowed = {tokens_of(text) for text in allow}
        self._phrases: dict[Tokens, str] = {}
        self._dates: set[Tokens] = set()
        for term in sorted(terms):
            for spelling in _spellings(term):
                self._add(spelling, term)
            for spelling in _date_spellings(term):
                self._add(spelling, term)
                self._dates.add(spelling)
        lengths: dict[str, set[int]] = {}
        self._inside: dict[str, list[str]] = {}
        for phrase in self._phrases:
            lengths.setdefault(phrase[0], set()).add(len(phrase))
            if len(phrase) == 1 and len(phrase[0]) >= _SHORTEST_INSIDE and phrase[0].isalpha():
                self._inside.setdefault(phrase[0][:_SHORTEST_INSIDE], []).append(phrase[0])
        self._lengths = {first: sorted(found, reverse=True) for first, found in lengths.items()}
        # Cells and names of files repeat.
        self._find_short = lru_cache(1 << 16)(self._find)

    def _add(self, phrase: Tokens, term: str) -> None:
        if phrase and phrase not in self._allowed and sum(map(len, phrase)) > 1:
            self._phrases.setdefault(phrase, term)

    def find(self, text: str) -> tuple[Match, ...]:
        """Return the private words of a text as `normal` gives it, in order, none in another."""
        return self._find_short(text) if len(text) < 256 else self._find(text)

    def find_in_noise(self, text: str) -> tuple[Match, ...]:
        """Return the matches in what may be no text: those that chance hardly makes."""
        return tuple(match for match in self.find(text) if _is_unlikely(match))

    def redacted(self, text: str) -> str:
        """Return a text with every private word replaced."""
        text = normal(text)
        for match in reversed(self.find(text)):
            text = f"{text[: match.start]}[{match.kind}]{text[match.end :]}"
        return text

    def _find(self, text: str) -> tuple[Match, ...]:
        found = [*self._find_terms(text), *self._find_patterns(text)]
        # Of matches that overlap the longest tells most, and a term more than a pattern.
        found.sort(key=lambda match: (match.start - match.end, match.kind != "term", match.start))
        kept: list[Match] = []
        for match in found:
            if all(match.end <= other.start or other.end <= match.start for other in kept):
                kept.append(match)
        return tuple(sorted(kept, key=lambda match: match.start))

    def _find_terms(self, text: str) -> Iterator[Match]:
        words = [(match[0], match.start(), match.end()) for match in _TOKEN.finditer(text)]
        yield from self._find_phrases(text, words)
        if any(word.isalpha() and not word.islower() and not word.isupper() for word, *_ in words):
            humps = [
                (part[0], start + part.start(), start + part.end())
                for word, start, _ in words
                for part in (_HUMP.finditer(word) if word.isascii() and word.isalpha() else ())
            ]
            yield from self._find_phrases(text, humps)

    def _find_phrases(self, text: str, words: list[tuple[str, int, int]]) -> Iterator[Match]:
        folded = [word.casefold() for word, _, _ in words]
        for index, word in enumerate(folded):
            for length in self._lengths.get(word, ()):
                phrase = tuple(folded[index : index + length])
                if phrase in self._phrases:
                    place = [(start, end) for _, start, end in words[index : index + length]]
                    if self._is_close(text, phrase, place):
                        start, end = place[0][0], place[-1][1]
                        yield Match(start, end, "term", self._phrases[phrase])
                        break
            if len(word) > _SHORTEST_INSIDE and self._inside and word.isalpha():
                yield from self._find_inside(word, words[index][1])

    def _find_inside(self, word: str, start: int) -> Iterator[Match]:
        for offset in range(len(word) - _SHORTEST_INSIDE + 1):
            for inner in self._inside.get(word[offset : offset + _SHORTEST_INSIDE], ()):
                if word.startswith(inner, offset):
                    place = start + offset
                    term = self._phrases[inner,]
                    yield Match(place, place + len(inner), "term", term)

    def _is_close(self, text: str, phrase: Tokens, places: list[tuple[int, int]]) -> bool:
        is_date = phrase in self._dates
        for index, ((_, end), (start, _)) in enumerate(zip(places, places[1:], strict=False)):
            is_number = phrase[index][0].isdigit() or phrase[index + 1][0].isdigit()
            if is_date and all(word.isdigit() for word in phrase):
                if text[end:start] not in _DATE_GAPS:
                    return False
            elif start - end > (_NUMBER_GAP if is_number and not is_date else _GAP):
                return False
        return True

    def _find_patterns(self, text: str) -> Iterator[Match]:
        for kind, pattern in _PATTERNS.items():
            for match in pattern.finditer(text):
                word = match[0]
                if kind == "UID" and (word.startswith(_STANDARD_UID) or len(word) < _SHORTEST_UID):
                    continue
                if tokens_of(word) not in self._allowed:
                    yield Match(match.start(), match.end(), kind, word.casefold())


def _is_unlikely(match: Match) -> bool:
    length = match.end - match.start
    if match.kind == "person name":
        letters = match.term.replace("^", "")
        return length >= _SHORTEST_PATTERN_IN_NOISE and letters.isascii() and letters.isalpha()
    if match.kind in ("UID", "e-mail"):
        return length >= _SHORTEST_PATTERN_IN_NOISE
    return match.kind == "term" and length >= _SHORTEST_IN_NOISE


def _spellings(term: str) -> set[Tokens]:
    """Return the ways to write a name or number."""
    spellings = set()
    # Alphabetic, ideographic and phonetic group of a person's name (PS3.5 6.2.1).
    for group in term.split("=") if "^" in term else [term]:
        for text in {group, group.translate(_UMLAUTS)}:
            tokens = tokens_of(text)
            parts = [p for p in map(tokens_of, re.split(r"\^|, *", text)) if p]
            orders = {tokens}
            if 2 <= len(parts) <= 5:
                orders |= {sum(two, ()) for two in permutations(parts[:2])}
                orders |= {sum(parts, ()), sum(parts[1:], ()) + parts[0]}
            spellings |= orders
            if all(token.isalpha() for token in tokens):
                spellings |= {("".join(order),) for order in orders if len("".join(order)) > 4}
            # A number without the zeros that fill it up.
            if len(tokens) == 1 and tokens[0].isdigit() and len(tokens[0].lstrip("0")) > 4:
                spellings.add((tokens[0].lstrip("0"),))
    return spellings


def _date_spellings(term: str) -> Iterator[Tokens]:
    """Give the ways to write a date that is given as eight digits, its year first."""
    if not re.fullmatch(r"(?:19|20)\d{6}", term.strip()):
        return
    try:
        day = date.fromisoformat(term.strip())
    except ValueError:
        return
    year, month_name = str(day.year), _MONTHS[day.month - 1]
    for d in {f"{day.day:02}", str(day.day)}:
        for m in {f"{day.month:02}", str(day.month)}:
            yield from ((year, m, d), (d, m, year), (m, d, year))
        for m in (month_name, month_name[:3]):
            yield from ((year, m, d), (d, m, year), (m, d, year))
