"""Masking what identifies a person: mail addresses, phone numbers, identity and bank cards, internet addresses.

Each is replaced by a bracketed word, so that a model learns the place and not the person. What has a checksum is
checked by it (Chinese identity cards: GB 11643-1999; bank cards: Luhn's, ISO/IEC 7812-1); internet addresses of no
person (private, documentation, local) stay, and so do four small numbers with dots between: versions and sections.
"""

import ipaddress
import re
from collections import Counter
from collections.abc import Callable

from athanor.base import native
from athanor.base.textblock import TextBlock
from athanor.data.cleaning import compiled

# ASCII: a Chinese character beside a number ends it, though it is a letter to Unicode.
MAIL_HOST = re.compile(r"@(?:[A-Za-z0-9-]{1,63}\.){1,6}[A-Za-z]{2,24}\b", re.ASCII)
MAIL_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._%+-]*[A-Za-z0-9_+-])?\Z")
LONGEST_NAME = 64  # characters before the @ (RFC 5321, 4.5.3.1.1)
VEILED_AT = re.compile(r"[\[({<](?:at|AT|@)[\])}>]")
VEILED_MAIL = re.compile(
    r"\b[A-Za-z0-9][A-Za-z0-9._%+-]{0,63}\s?[\[({<](?:at|AT|@)[\])}>]\s?"
    r"[A-Za-z0-9-]{1,63}(?:\s?(?:\.|[\[({<](?:dot|DOT|\.)[\])}>])\s?[A-Za-z0-9-]{1,63}){0,4}"
    r"\s?(?:\.|[\[({<](?:dot|DOT|\.)[\])}>])\s?[A-Za-z]{2,24}\b",
    re.ASCII,
)
IDENTITY_CARD = re.compile(
    r"(?<![\dA-Za-z])[1-9]\d{5} ?(?:19|20)\d{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01]) ?\d{3}[\dXx](?![\dA-Za-z])"
)
BANK_CARD = re.compile(
    r"(?<![\w.-])(?:\d{4}([ -])\d{4}\1\d{4}\1\d{4}(?:\1\d{1,3})?|3[47]\d{2}([ -])\d{6}\2\d{5}|62\d{4}([ -])\d{13}"
    r"|\d{13,19})(?!\w|[.-]\d)",
    re.ASCII,
)
BEFORE = r"(?<![\d.\w+-])"
CHINESE_MOBILE = BEFORE + r"(?:\(?(?:\+|00)?86\)?[ -]?)?1[3-9]\d(?:\d{8}|([ -])\d{4}\1\d{4})(?!\w|\.\d)"
CHINESE_LANDLINE = (
    r"(?<![\d.\w])(?:(?:\+|00)?86[ -]?)?(?:[(（]0\d{2,3}[)）] ?|0\d{2,3}[-–—－])[2-8]\d{2,3}[ -]?\d{4}"
    r"(?:(?:-|转|ext\.? ?)\d{1,5})?(?!\w|[.-]\d)"
)
NORTH_AMERICAN = (
    BEFORE
    + r"(?:\+?1[ .-]?)?(?:\([2-9]\d{2}\)[ .-]?|[2-9]\d{2}[-.])[2-9]\d{2}[-. ]\d{4}(?: ?(?:x|ext\.?) ?\d{1,5})?(?![\w-])"
)
BRITISH = BEFORE + r"0(?:20[ -]?\d{4}[ -]?\d{4}|7\d{3}[ -]?\d{3}[ -]?\d{3}|1\d{2,3}[ -]\d{3}[ -]?\d{3,4})(?![\w-])"
INTERNATIONAL = r"(?<![\d.\w+-])(?:\+|00(?=\d{1,3}[ (-]))[1-9]\d{0,2}(?:[ .-]?\(?\d{1,4}\)?){2,6}(?![\w-])"
ANNOUNCED = (
    r"(?:\b(?:[Tt]el|[Pp]hone|[Tt]elephone|[Ff]ax|[Mm]obile|[Cc]ell|[Ww]hats[Aa]pp)(?: (?:no\.?|number))?(?: is)?"
    r"|电话|手机|传真|座机|固话|热线|联系方式)(?:号码|号)?(?:是|为)?[.:：]? ?"
    r"(?P<found>\+?\(?\d[\d ()./–－-]{5,20}\d)(?![\w-])"
)
PHONES = [
    re.compile(pattern, re.ASCII)
    for pattern in (CHINESE_MOBILE, CHINESE_LANDLINE, NORTH_AMERICAN, BRITISH, INTERNATIONAL, ANNOUNCED)
]
ADDRESS = re.compile(r"(?<![\d.\w])(?:\d{1,3}\.){3}\d{1,3}(?!\w|\.\d)", re.ASCII)
ADDRESS_6 = re.compile(r"(?<![\w:.])[23][0-9A-Fa-f]{3}(?::[0-9A-Fa-f]{0,4}){2,7}(?![\w:])", re.ASCII)
# Nothing above can match in a text without one of these.
SEVEN_DIGITS = re.compile(r"\d(?:[ ()（）.–—－-]{0,2}\d){6}", re.ASCII)
THREE_DOTS = re.compile(r"\d\.\d{1,3}\.\d{1,3}\.\d", re.ASCII)
TWO_COLONS = re.compile(r"[23][0-9A-Fa-f]{3}:[0-9A-Fa-f]{0,4}:")
DATE = re.compile(r"(?:19|20)\d\d[-./]\d{1,2}[-./]\d{1,2}")
NUMBER = re.compile(r"\+\d+\.\d+|\+\d{1,3}(?: \d{3}){1,2}")
CARD_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
CARD_CHECKS = "10X98765432"
# Beginnings and lengths of the numbers of card networks; 62 is UnionPay, 9558 the older ones of ICBC.
NETWORKS = re.compile(
    r"4(?:\d{12}|\d{15}|\d{18})|5[1-5]\d{14}|2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}|3[47]\d{13}|62\d{14,17}"
    r"|6(?:011|5\d\d|4[4-9]\d)\d{12}|35(?:2[89]|[3-8]\d)\d{12}|3(?:0[0-5]|[68]\d)\d{11}|9558\d{15}"
)
NO_HOSTS = (
    ".example.com", ".example.org", ".example.net", ".example", ".invalid", ".test", ".local",  # RFC 2606
    ".png", ".jpg", ".jpeg", ".gif", ".svg", ".webp", ".js", ".css",  # icon@2x.png
)  # fmt: skip
SMALL = 30  # one in five thousand public addresses has four numbers below it; of versions and sections nearly all


def may_be_personal(texts: list[str]) -> list[bool]:
    """Whether there may be something to mask in each text; where not, there is nothing. Quick for most of them."""
    if not native.available():
        return [True] * len(texts)
    return compiled.may_be_personal(TextBlock.of(texts)).tolist()


def mask_personal(text: str, code: bool = False) -> tuple[str, Counter[str]]:
    """(text with [mail], [phone], [identity card], [bank card], [ip] for personal data, how many of each).

    In programs only mail addresses and identity cards are masked: their numbers are constants, not people.
    """
    counts: Counter[str] = Counter()
    if "@" in text:
        text = _mask_mail(text, counts)
    if VEILED_AT.search(text):
        text = _mask(VEILED_MAIL, "mail", _always, text, counts)
    if SEVEN_DIGITS.search(text):
        text = _mask(IDENTITY_CARD, "identity card", is_identity_card, text, counts)
        if not code:
            text = _mask(BANK_CARD, "bank card", is_bank_card, text, counts)
            for phone in PHONES:
                text = _mask(phone, "phone", _may_be_phone, text, counts)
    if code:
        return text, counts
    if THREE_DOTS.search(text):
        text = _mask(ADDRESS, "ip", _is_public_address, text, counts)
    if TWO_COLONS.search(text):
        text = _mask(ADDRESS_6, "ip", _is_public_address, text, counts)
    return text, counts


def _mask(pattern: re.Pattern[str], name: str, accepts: Callable[[str], bool], text: str, counts: Counter[str]) -> str:
    group = pattern.groupindex.get("found", 0)

    def replace(match: re.Match[str]) -> str:
        found = match.group(group)
        if not accepts(found):
            return match.group()
        counts[name] += 1
        return match.group()[: match.start(group) - match.start()] + f"[{name}]"

    return pattern.sub(replace, text)


def _mask_mail(text: str, counts: Counter[str]) -> str:
    """Mail addresses, found from their @ outwards: most of what has an @ is a decorator, and a text may be long."""
    parts, done = [], 0
    for host in MAIL_HOST.finditer(text):
        name = MAIL_NAME.search(text[max(done, host.start() - LONGEST_NAME) : host.start()])
        if name and not ("." + host.group()[1:].lower()).endswith(NO_HOSTS):
            parts += [text[done : host.start() - len(name.group())], "[mail]"]
            done = host.end()
            counts["mail"] += 1
    return "".join(parts) + text[done:] if parts else text


def _always(found: str) -> bool:
    return True


def is_identity_card(found: str) -> bool:
    """Whether the last character is the checksum of the seventeen before it."""
    found = found.replace(" ", "")
    total = sum(int(digit) * weight for digit, weight in zip(found[:17], CARD_WEIGHTS, strict=True))
    return CARD_CHECKS[total % 11] == found[17].upper()


def is_bank_card(found: str) -> bool:
    """Whether a number is of a card network and its last digit Luhn's checksum of the others."""
    digits = found.replace(" ", "").replace("-", "")
    if not NETWORKS.fullmatch(digits) or len(set(digits)) == 1:
        return False
    doubled = [2 * int(digit) for digit in digits[-2::-2]]
    return (sum(map(int, digits[-1::-2])) + sum(number - 9 * (number > 9) for number in doubled)) % 10 == 0


def _may_be_phone(found: str) -> bool:
    """Seven to fifteen digits (ITU-T E.164) that are no date and no number with a decimal point or blanks."""
    digits = sum(character.isdigit() for character in found)
    return 7 <= digits <= 15 and not DATE.match(found) and not NUMBER.fullmatch(found)


def _is_public_address(found: str) -> bool:
    try:
        address = ipaddress.ip_address(found)
    except ValueError:  # 300.1.2.3, 01.2.3.4: a version number
        return False
    return address.is_global and (address.version == 6 or max(address.packed) >= SMALL)
