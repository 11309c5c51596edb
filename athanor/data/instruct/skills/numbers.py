"""Skills about numbers: adding, subtracting, comparing, sorting, reading them aloud, converting units."""

from __future__ import annotations

from random import Random

from athanor.data.instruct.skills.exercise import Exercise, Phrases, ask

SMALL_EN = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
TENS_EN = "zero ten twenty thirty forty fifty sixty seventy eighty ninety".split()
DIGITS_ZH = "零一二三四五六七八九"

ADDITION: Phrases = {
    "en": (
        "What is {a} + {b}?",
        "{a} + {b} = ?",
        "Add {a} and {b}.",
        "Calculate {a} plus {b}.",
        "I have {a} coins and get {b} more. How many coins do I have?",
    ),
    "zh": (
        "{a} + {b} 等于多少？",
        "{a} + {b} = ？",
        "请计算 {a} 加 {b}。",
        "{a} 与 {b} 的和是多少？",
        "我有 {a} 枚硬币，又得到 {b} 枚，一共有多少枚？",
    ),
}
SUBTRACTION: Phrases = {
    "en": (
        "What is {a} - {b}?",
        "{a} - {b} = ?",
        "Calculate {a} minus {b}.",
        "Subtract {b} from {a}.",
        "I have {a} coins and give away {b}. How many coins are left?",
    ),
    "zh": (
        "{a} - {b} 等于多少？",
        "{a} - {b} = ？",
        "请计算 {a} 减 {b}。",
        "{a} 比 {b} 多多少？",
        "我有 {a} 枚硬币，送出 {b} 枚，还剩多少枚？",
    ),
}
COMPARISON: dict[bool, Phrases] = {
    True: {
        "en": (
            "Which is larger, {a} or {b}?",
            "Give the larger of {a} and {b}.",
            "What is the maximum of {a} and {b}?",
        ),
        "zh": ("{a} 和 {b} 哪个更大？", "请写出 {a} 和 {b} 中较大的数。", "{a} 与 {b} 的最大值是多少？"),
    },
    False: {
        "en": (
            "Which is smaller, {a} or {b}?",
            "Give the smaller of {a} and {b}.",
            "What is the minimum of {a} and {b}?",
        ),
        "zh": ("{a} 和 {b} 哪个更小？", "请写出 {a} 和 {b} 中较小的数。", "{a} 与 {b} 的最小值是多少？"),
    },
}
SORTING: dict[bool, Phrases] = {
    True: {
        "en": (
            "Sort from small to large: {items}",
            "Put these numbers in ascending order: {items}",
            "Order these numbers, smallest first: {items}",
        ),
        "zh": ("请从小到大排列：{items}", "把这些数按升序排列：{items}", "将下列数字由小到大排序：{items}"),
    },
    False: {
        "en": (
            "Sort from large to small: {items}",
            "Put these numbers in descending order: {items}",
            "Order these numbers, largest first: {items}",
        ),
        "zh": ("请从大到小排列：{items}", "把这些数按降序排列：{items}", "将下列数字由大到小排序：{items}"),
    },
}
TO_WORDS: Phrases = {
    "en": ("Write {n} in words.", "How do you say {n} in words?", "Spell out the number {n}."),
    "zh": ("请用汉字写出 {n}。", "数字 {n} 用中文怎么读？", "把 {n} 写成中文数字。"),
}
TO_DIGITS: Phrases = {
    "en": ("Write {n} in digits.", "Which number is {n}?", "Write this number with digits: {n}"),
    "zh": ("请用阿拉伯数字写出：{n}", "{n}是哪个数？请写数字。", "把“{n}”写成阿拉伯数字。"),
}
UNITS: Phrases = {
    "en": (
        "Convert {value} {start} to {end}.",
        "How many {end} are {value} {start}?",
        "{value} {start} = ? {end}",
        "Express {value} {start} in {end}.",
    ),
    "zh": (
        "{value} {start}等于多少{end}？",
        "把 {value} {start}换算成{end}。",
        "{value} {start}是多少{end}？",
        "请用{end}表示 {value} {start}。",
    ),
}
UNIT_PAIRS = (  # large unit, small unit, how many small ones make a large one
    (("km", "千米"), ("m", "米"), 1000),
    (("m", "米"), ("cm", "厘米"), 100),
    (("cm", "厘米"), ("mm", "毫米"), 10),
    (("kg", "千克"), ("g", "克"), 1000),
    (("t", "吨"), ("kg", "千克"), 1000),
    (("L", "升"), ("mL", "毫升"), 1000),
)


def addition(random: Random, language: str) -> Exercise:
    """A number of two or three digits plus one digit, carries included."""
    a, b = random.randint(10, 999), random.randint(1, 9)
    return Exercise(ask(random, ADDITION, language, a=a, b=b), str(a + b), f"{a} {b}")


def subtraction(random: Random, language: str) -> Exercise:
    """A number of two or three digits minus one digit, borrowing included."""
    a, b = random.randint(10, 999), random.randint(1, 9)
    return Exercise(ask(random, SUBTRACTION, language, a=a, b=b), str(a - b), f"{a} {b}")


def comparison(random: Random, language: str) -> Exercise:
    """The larger or smaller of two different numbers below a thousand; both questions about a pair are one problem."""
    a, b = random.sample(range(1000), 2)
    larger = random.random() < 0.5
    answer = max(a, b) if larger else min(a, b)
    return Exercise(ask(random, COMPARISON[larger], language, a=a, b=b), str(answer), f"{min(a, b)} {max(a, b)}")


def sorting_numbers(random: Random, language: str) -> Exercise:
    """Three or four different numbers of two digits, sorted up or down; one set of numbers is one problem."""
    numbers = random.sample(range(10, 100), random.randint(3, 4))
    ascending = random.random() < 0.5
    answer = sorted(numbers, reverse=not ascending)
    question = ask(random, SORTING[ascending], language, items=", ".join(map(str, numbers)))
    return Exercise(question, ", ".join(map(str, answer)), " ".join(map(str, sorted(numbers))))


def number_words(random: Random, language: str) -> Exercise:
    """A number below ten thousand from digits to words or back; both directions are one problem."""
    number = random.randrange(10 ** random.randint(2, 4))
    words = words_en(number) if language == "en" else words_zh(number)
    if random.random() < 0.5:
        return Exercise(ask(random, TO_WORDS, language, n=number), words, str(number))
    return Exercise(ask(random, TO_DIGITS, language, n=words), str(number), str(number))


def words_en(number: int) -> str:
    """An integer from 0 to 9,999 in English words: 1,042 is `one thousand forty-two`."""
    if number >= 1000:
        return f"{SMALL_EN[number // 1000]} thousand" + (f" {words_en(number % 1000)}" if number % 1000 else "")
    if number >= 100:
        return f"{SMALL_EN[number // 100]} hundred" + (f" {words_en(number % 100)}" if number % 100 else "")
    if number >= 20:
        return TENS_EN[number // 10] + (f"-{SMALL_EN[number % 10]}" if number % 10 else "")
    return SMALL_EN[number]


def words_zh(number: int) -> str:
    """An integer from 0 to 9,999 in Chinese numerals: 1,042 is `一千零四十二`, 12 is `十二`."""
    if number < 10:
        return DIGITS_ZH[number]
    written, skipped_zero = "", False
    for unit, name in ((1000, "千"), (100, "百"), (10, "十"), (1, "")):
        digit = number // unit % 10
        if digit == 0:
            skipped_zero = bool(written)
            continue
        written += ("零" if skipped_zero else "") + DIGITS_ZH[digit] + name
        skipped_zero = False
    return written.removeprefix("一") if number < 20 else written


def unit_conversion(random: Random, language: str) -> Exercise:
    """A length, weight or volume in the next metric unit, up (to one decimal) or down; both are one problem."""
    large, small, factor = random.choice(UNIT_PAIRS)
    tenths = random.randint(1, 999)  # the amount in tenths of the large unit
    in_large, in_small = f"{tenths / 10:g}", f"{tenths * factor // 10}"
    index = 0 if language == "en" else 1
    down = random.random() < 0.5
    value, start, end = (in_large, large, small) if down else (in_small, small, large)
    question = ask(random, UNITS, language, value=value, start=start[index], end=end[index])
    amount = in_small if down else in_large
    return Exercise(question, f"{amount} {end[index]}", f"{in_large} {large[0]}")
