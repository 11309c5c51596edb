"""English or Chinese: which one this person reads."""

import os


def language() -> str:
    """'zh' or 'en': $ATHANOR_LANGUAGE if set, else the language of the terminal ($LC_ALL, $LC_MESSAGES, $LANG)."""
    for name in ("ATHANOR_LANGUAGE", "LC_ALL", "LC_MESSAGES", "LANG"):
        value = os.environ.get(name)
        if value:
            return "zh" if value.lower().startswith("zh") else "en"
    return "en"


def say(english: str, chinese: str) -> str:
    """The one of two texts that this person reads."""
    return chinese if language() == "zh" else english
