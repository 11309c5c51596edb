from hypothesis import given
from hypothesis import strategies as st

from athanor.data.split import split_text

LETTERS = st.text(
    alphabet=st.one_of(st.sampled_from("ab \n.。，\u0301\u200d\ufe0f👩👧é汉\r"), st.characters(codec="utf-8"))
)


@given(st.lists(LETTERS, max_size=8), st.integers(1, 40))
def test_parts_joined_are_the_text_and_fit(pieces, most):
    parts = list(split_text(pieces, most))
    assert "".join(parts) == "".join(pieces)
    for part in parts:
        assert part
        assert len(part.encode()) <= most or len(part) == 1


@given(
    st.lists(st.sampled_from(["a", "汉", "e\u0301", "👩\u200d👧", "\r\n"]), min_size=1, max_size=80),
    st.integers(40, 60),
)
def test_nothing_is_torn_from_its_letter(clusters, most):
    for part in list(split_text(["".join(clusters)], most))[1:]:
        assert part[0] not in "\u0301\u200d\n👧"


def test_paragraphs_are_preferred_to_lines_and_lines_to_sentences():
    assert list(split_text(["aaaa\nbbbb\n\ncccc. dddd"], 18)) == ["aaaa\nbbbb\n\n", "cccc. dddd"]
    assert list(split_text(["aaaa bbbb\ncccc. dddd"], 18)) == ["aaaa bbbb\n", "cccc. dddd"]
    assert list(split_text(["aaaa bbbbb. cc ddddd"], 18)) == ["aaaa bbbbb. ", "cc ddddd"]
    assert list(split_text(["春天来了。花开了满山遍野"], 24)) == ["春天来了。", "花开了满山遍野"]
    assert list(split_text(["aaaa bbbb cccc ddddd"], 18)) == ["aaaa bbbb cccc ", "ddddd"]


def test_a_text_without_any_boundary_is_cut_between_characters():
    parts = list(split_text(["汉" * 10], 8))
    assert parts == ["汉汉"] * 5
