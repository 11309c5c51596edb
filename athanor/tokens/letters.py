"""GPT-2's one-to-one map between the 256 bytes and printable letters (Radford et al. 2019, section 2.2).

Vocabularies of byte-level tokenizers are written in these letters.
"""

_PRINTABLE = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
_OTHERS = [byte for byte in range(256) if byte not in set(_PRINTABLE)]

BYTE_TO_LETTER: dict[int, str] = {byte: chr(byte) for byte in _PRINTABLE} | {
    byte: chr(256 + place) for place, byte in enumerate(_OTHERS)
}
LETTER_TO_BYTE: dict[str, int] = {letter: byte for byte, letter in BYTE_TO_LETTER.items()}


def letters_of(data: bytes) -> str:
    """Bytes as letters."""
    return "".join(BYTE_TO_LETTER[byte] for byte in data)


def bytes_of(letters: str) -> bytes | None:
    """Letters as bytes; None when one of them stands for no byte."""
    found = [LETTER_TO_BYTE.get(letter) for letter in letters]
    return None if None in found else bytes(byte for byte in found if byte is not None)
