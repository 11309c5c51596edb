"""Masking what identifies a person: mail addresses, phone numbers, Chinese identity cards, internet addresses.

Each is replaced by a bracketed word, so that a model learns the place and not the person. Identity cards are checked
by their checksum (GB 11643-1999); internet addresses of no person (private, documentation, local) stay.
"""

import ipaddress
import re
from collections import Counter
from collections.abc import Callable

# ASCII: a Chinese character beside a number ends it, though it is a letter to Unicode.
MAIL_HOST = re.compile(r"@(?:[A-Za-z0-9-]{1,63}\.){1,6}[A-Za-z]{2,24}\b", re.ASCII)
MAIL_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._%+-]*[A-Za-z0-9_+-])?\Z")
LONGEST_NAME = 64  # characters before the @ (RFC 5321, 4.5.3.1.1)
CARD = re.compile(
    r"(?<![\dA-Za-z])[1-9]\d{5}(?:19|20)\d{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])\d{3}[\dXx](?![\dA-Za-z])"
)
MOBILE = re.compile(r"(?<![\d.\w-])(?:(?:\+|00)86[ -]?)?1[3-9]\d(?:\d{8}|[ -]\d{4}[ -]\d{4})(?!\w|\.\d)", re.ASCII)
CHINESE_LANDLINE = re.compile(r"(?<![\d.\w-])(?:\(0\d{2,3}\) ?|0\d{2,3}-)[2-8]\d{6,7}(?!\w|[.-]\d)", re.ASCII)
NORTH_AMERICAN = re.compile(
    r"(?<![\d.\w-])(?:\+?1[ .-])?(?:\([2-9]\d{2}\) ?|[2-9]\d{2}[-.])[2-9]\d{2}[-.]\d{4}(?![\d\w-])",
    re.ASCII,
)
INTERNATIONAL = re.compile(r"(?<![\d.\w+-])\+[1-9]\d{0,2}(?:[ -]\(?\d{2,4}\)?){2,4}(?![\d\w-])", re.ASCII)
ADDRESS = re.compile(r"(?<![\d.\w])(?:\d{1,3}\.){3}\d{1,3}(?![\d\w]|\.\d)", re.ASCII)
CARD_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
CARD_CHECKS = "10X98765432"
EXAMPLE_HOSTS = ("example.com", "example.org", "example.net", ".example", ".invalid", ".test", ".local")


def mask_personal(text: str, code: bool = False) -> tuple[str, Counter[str]]:
    """(text with [mail], [card], [phone], [ip] in the place of personal data, how many of each).

    In programs only mail addresses and cards are masked: their numbers are constants, not people.
    """
    counts: Counter[str] = Counter()
    if "@" in text:
        text = _mask_mail(text, counts)
    if not NUMBERS.search(text):
        return text, counts
    text = _mask(CARD, "card", is_identity_card, text, counts)
    if code:
        return text, counts
    for phone in (MOBILE, CHINESE_LANDLINE, NORTH_AMERICAN, INTERNATIONAL):
        text = _mask(phone, "phone", _always, text, counts)
    return _mask(ADDRESS, "ip", _is_public_address, text, counts), counts


NUMBERS = re.compile(  # whatever a pattern of numbers above matches has one of these in it
    r"\d{7}|\d{4}[ -]\d{4}|\d{3}[-.]\d{4}|\+[1-9]|\d\.\d{1,3}\.\d"
)


def _mask(pattern: re.Pattern[str], name: str, accepts: Callable[[str], bool], text: str, counts: Counter[str]) -> str:
    def replace(match: re.Match[str]) -> str:
        if not accepts(match.group()):
            return match.group()
        counts[name] += 1
        return f"[{name}]"

    return pattern.sub(replace, text)


def _mask_mail(text: str, counts: Counter[str]) -> str:
    """Mail addresses, found from their @ outwards: most of what has an @ is a decorator, and a text may be long."""
    parts, done = [], 0
    for host in MAIL_HOST.finditer(text):
        name = MAIL_NAME.search(text[max(done, host.start() - LONGEST_NAME) : host.start()])
        if name and not host.group().lower().endswith(EXAMPLE_HOSTS):
            parts += [text[done : host.start() - len(name.group())], "[mail]"]
            done = host.end()
            counts["mail"] += 1
    return "".join(parts) + text[done:] if parts else text


def _always(found: str) -> bool:
    return True


def is_identity_card(found: str) -> bool:
    """Whether the last character is the checksum of the seventeen before it."""
    total = sum(int(digit) * weight for digit, weight in zip(found[:17], CARD_WEIGHTS, strict=True))
    return CARD_CHECKS[total % 11] == found[17].upper()


def _is_public_address(found: str) -> bool:
    try:
        return ipaddress.ip_address(found).is_global
    except ValueError:  # 300.1.2.3, 01.2.3.4: a version number
        return False
