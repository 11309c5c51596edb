"""Skills about the calendar: the next day, and ways to write a date."""

from __future__ import annotations

from datetime import date, timedelta
from random import Random

from athanor.data.instruct.skills.exercise import Exercise, Phrases, ask

MONTHS_EN = "January February March April May June July August September October November December".split()
FIRST_DAY, LAST_DAY = date(1990, 1, 1), date(2039, 12, 31)

NEXT_DAY: Phrases = {
    "en": (
        "Which date comes after {day}?",
        "What is the day after {day}?",
        "Today is {day}. What is the date tomorrow?",
    ),
    "zh": ("{day} 的后一天是哪天？", "{day} 之后的一天是几号？", "今天是 {day}，明天的日期是什么？"),
}
TO_LONG: Phrases = {
    "en": (
        "Write {day} with the name of the month.",
        "Write the date {day} out in words and numbers.",
        "Say {day} as day, month, year.",
    ),
    "zh": ("请把 {day} 写成年月日的形式。", "用年月日写出 {day}。", "{day} 用中文日期格式怎么写？"),
}
TO_ISO: Phrases = {
    "en": ("Write {day} as YYYY-MM-DD.", "Give {day} in ISO format.", "Convert the date {day} to ISO."),
    "zh": ("请把{day}写成 YYYY-MM-DD。", "用 ISO 格式写出{day}。", "{day}的 ISO 日期是什么？"),
}


def any_day(random: Random) -> date:
    """A day between FIRST_DAY and LAST_DAY."""
    return FIRST_DAY + timedelta(days=random.randint(0, (LAST_DAY - FIRST_DAY).days))


def long_date(day: date, language: str) -> str:
    """`7 May 2023`, `2023年5月7日`."""
    return (
        f"{day.day} {MONTHS_EN[day.month - 1]} {day.year}"
        if language == "en"
        else f"{day.year}年{day.month}月{day.day}日"
    )


def next_day(random: Random, language: str) -> Exercise:
    """The day after a date, ends of months and leap years included (a third of the dates are a month's last)."""
    day = any_day(random)
    if random.random() < 1 / 3:
        day = day.replace(day=1) - timedelta(days=1) if day.replace(day=1) > FIRST_DAY else day
    answer = day + timedelta(days=1)
    return Exercise(ask(random, NEXT_DAY, language, day=day), str(answer), str(day))


def date_format(random: Random, language: str) -> Exercise:
    """A date from ISO to the language's long form or back; both directions are one problem."""
    day = any_day(random)
    if random.random() < 0.5:
        return Exercise(ask(random, TO_LONG, language, day=day), long_date(day, language), str(day))
    return Exercise(ask(random, TO_ISO, language, day=long_date(day, language)), str(day), str(day))
