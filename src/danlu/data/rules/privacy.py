"""Personal data becomes a placeholder that is the same for all; the document stays.

The record's field `masked` says how many of each were found, e.g. `{"phone": 2}`.
"""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from danlu.data.characters import Kind, kinds
from danlu.types import Document

Secret = Literal["email", "id_number", "bank_card", "phone", "ip_address"]
MASKED = "masked"
"""The field of a document's `meta` with the counts."""

PLACEHOLDERS: dict[Secret, str] = {
    "email": "〈邮箱〉",
    "id_number": "〈身份证号〉",
    "bank_card": "〈银行卡号〉",
    "phone": "〈电话〉",
    "ip_address": "〈网络地址〉",
}
_NUMBERS: tuple[Secret, ...] = ("id_number", "bank_card", "phone", "ip_address")
"""Longer ones first: a phone number may be a part of an ID number."""
_FEWEST_DIGITS = 4
"""Of anything that is masked: 8.8.8.8."""
_MEASURES = "万亿元%％次件台吨名户册辆份株米人"
"""What makes a number a count."""
_DASH = r"\-‐‑–—－"
_STRETCH = re.compile(rf"[0-9+(（][0-9 .()（）+{_DASH}]{{5,}}[0-9Xx]?[0-9A-Za-z{_MEASURES}]?")
"""What numbers are written with, and what follows it: patterns of numbers need to look nowhere else."""
_BETWEEN = f"[ {_DASH}]"
_PREFIX = "1(?:3[0-9]|4[5-9]|5[0-35-9]|[6-9][0-9])"
"""Of mobile numbers. Source: the ministry's numbering plan, without those of machines (140 to 144: 13 digits)."""
_GROUPS = rf"(?:[ .{_DASH}][0-9]{{4}}){{2}}(?![ .{_DASH}][0-9]{{4}}(?![0-9]))"
"""Two groups of four; a third makes it a long number in groups."""
_MOBILE = rf"(?:(?:\+|00)?86{_BETWEEN}?)?{_PREFIX}(?:[0-9]{{8}}|{_GROUPS})"
_AREA = r"0(?:10|2[0-9]|[3-9][0-9]{2})"
_LOCAL = rf"[2-9][0-9]{{2,3}}{_BETWEEN}?[0-9]{{4}}"
_LANDLINE = rf"(?:[(（]{_AREA}[)）]{_BETWEEN}?|{_AREA}{_BETWEEN}{{0,2}}){_LOCAL}(?:[{_DASH}][0-9]{{1,5}})?"
_SERVICE = rf"[48]00(?:{_BETWEEN}?[0-9]){{7}}"
_ENDED = rf"(?![0-9]|\.[0-9]|[{_MEASURES}])"
_PROVINCE = "(?:1[1-5]|2[1-3]|3[1-7]|4[1-6]|5[0-4]|6[1-5]|71|8[1-3])"
"""That an ID number begins with. Source: GB/T 2260."""
_PATTERNS: dict[Secret, re.Pattern[str]] = {
    "email": re.compile(r"[0-9A-Za-z._%+-]{1,64}[@＠](?:[0-9A-Za-z-]{1,63}[.．]){1,4}[A-Za-z]{2,24}"),
    "id_number": re.compile(
        rf"(?<![0-9]){_PROVINCE}[0-9]{{4}}[ -]?(?:19|20)[0-9]{{6}}[ -]?[0-9]{{3}}[0-9Xx](?![0-9A-Za-z])"
    ),
    "bank_card": re.compile(r"(?<![0-9])[3-6][0-9]{3}(?:[ -]?[0-9]{4}){3}(?:[ -]?[0-9]{1,3})?(?![0-9])"),
    "phone": re.compile(rf"(?<![0-9])(?<![0-9][.])(?:{_MOBILE}|{_LANDLINE}|{_SERVICE}){_ENDED}"),
    "ip_address": re.compile(r"(?<![0-9.])(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?![0-9.])"),
}
_LOCALS = re.compile(
    rf"(?:电话|热线|传真|座机|[Tt][Ee][Ll])(?:号码)?[是为.:： ]{{0,3}}(?:{_LOCAL}(?:{_ENDED})[、/,，或和 ]{{0,2}})+"
)
"""Numbers without an area code, behind a word that says what they are."""
_LOCAL_NUMBER = re.compile(_LOCAL)


@dataclass(frozen=True)
class MaskPersonal:
    """Replace personal data by placeholders and count it in the record's field `masked`.

    ID numbers need a valid check digit and date, bank cards a valid check digit, IP addresses a public range; phone
    numbers are Chinese mobile numbers, landlines with their area code or behind a word like 电话, and 400/800 numbers,
    with or without separators.
    """

    secrets: tuple[Secret, ...] = ("email", "id_number", "phone")

    def __call__(self, document: Document) -> Document:
        """Look for each kind, where the text has digits or an @ at all."""
        text, counts = document.text, kinds(document.text)
        at = "@" in text or "＠" in text
        if not at and counts[Kind.DIGIT] < _FEWEST_DIGITS:
            return document
        masked: Counter[str] = Counter()
        if at and "email" in self.secrets:
            text = _masked(text, "email", masked)
        if counts[Kind.DIGIT] >= _FEWEST_DIGITS:
            numbers: list[Secret] = [secret for secret in _NUMBERS if secret in self.secrets]
            text = _STRETCH.sub(lambda stretch: _without(stretch[0], numbers, masked), text)
            if "phone" in self.secrets:
                text = _LOCALS.sub(lambda said: _masked(said[0], "phone", masked, _LOCAL_NUMBER), text)
        if not masked:
            return document
        return replace(document, text=text, meta={**document.meta, MASKED: dict(masked)})


def _without(stretch: str, secrets: list[Secret], masked: Counter[str]) -> str:
    for secret in secrets:
        stretch = _masked(stretch, secret, masked)
    return stretch


def _masked(text: str, secret: Secret, masked: Counter[str], pattern: re.Pattern[str] | None = None) -> str:
    """Return a text without one kind of personal data; count what is masked."""
    valid = _CHECKS.get(secret)

    def placeholder(found: re.Match[str]) -> str:
        if valid and not valid(found[0]):
            return found[0]
        masked[secret] += 1
        return PLACEHOLDERS[secret]

    return (pattern or _PATTERNS[secret]).sub(placeholder, text)


def valid_id_number(number: str) -> bool:
    """Check the last digit of a resident's number. Source: GB 11643-1999 (ISO 7064, MOD 11-2)."""
    digits = number.replace(" ", "").replace("-", "").upper()
    month, day = int(digits[10:12]), int(digits[12:14])
    total = sum(int(digit) * pow(2, 17 - place, 11) for place, digit in enumerate(digits[:17]))
    return 1 <= month <= 12 and 1 <= day <= 31 and "10X98765432"[total % 11] == digits[17]


def valid_bank_card(number: str) -> bool:
    """Check the last digit of a card's number. Source: ISO/IEC 7812-1, annex B (Luhn)."""
    digits = [int(digit) for digit in number if digit.isdigit()]
    doubled = (2 * digit - 9 * (digit > 4) for digit in digits[-2::-2])
    return (sum(digits[::-2]) + sum(doubled)) % 10 == 0


def _public(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_global
    except ValueError:
        return False


_CHECKS: dict[Secret, Callable[[str], bool]] = {
    "id_number": valid_id_number,
    "bank_card": valid_bank_card,
    "ip_address": _public,
}
