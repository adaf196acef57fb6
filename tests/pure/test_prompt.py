import pytest
from concept_loom.personalization.prompt import Mark, is_ordinary, near_misses, occurrences, pieces, rewrite, slots_of

from .concepts import placed

MUG, WASH = placed("mug"), placed("inkwash", "style")


def written(text, *composition):
    return " ".join(rewrite(text, composition or (MUG, WASH), lambda n, one: f"{one.word.upper()}{n}").split())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a photo of <mug> on the beach", "a photo of MUG0 on the beach"),
        ("<MUG>, at dawn", "MUG0 , at dawn"),
        ("the <mug>'s handle", "the MUG0 's handle"),
        ("a<mug>", "a MUG0"),
        ("one\n<mug>\ntwo", "one MUG0 two"),
        ("<mug><mug>", "MUG0 MUG1"),
        ("(<mug>:1.2)", "( MUG0 :1.2)"),
        ("<mug>, <inkwash>", "MUG0 , INKWASH1"),
        ("a <mugg> and a <mug >", "a <mugg> and a <mug >"),
        ("no word at all", "no word at all"),
    ],
)
def test_a_placeholder_is_found_wherever_a_designer_writes_it(text, expected):
    assert written(text) == expected


def test_a_class_word_that_already_follows_is_not_doubled():
    assert written("<mug> mug, <inkwash>  Style.") == "MUG0 , INKWASH1 ."
    assert written("<mug> mugs") == "MUG0 mugs"
    assert written("<x> coffee\nmug", placed("x", "coffee mug")) == "X0"


def test_a_phrase_without_its_class_word_keeps_the_one_that_follows():
    assert written("<x> mug", placed("x", "mug", "[V]")) == "X0 mug"


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("a photo of <mug> on the beach", "a photo of mug on the beach"),
        ("<mug> mug", "mug"),
        ("a<mug>'s (<mug>:1.2)", "a mug's (mug:1.2)"),
        ("<mug><mug>", "mug mug"),
    ],
)
def test_strength_0_writes_the_class_word_in_place(text, plain):
    assert rewrite(text, (placed("mug", strength=0.0),), lambda n, one: "WRONG") == plain


def test_a_prompt_weight_of_0_writes_the_class_word_too_and_only_there():
    assert written("(<mug>:0) and <mug>", MUG) == "(mug:0) and MUG0"


@pytest.mark.parametrize(
    ("text", "weights"),
    [
        ("<mug>", [1.0]),
        ("(<mug>:1.2)", [1.2]),
        ("(<mug>)", [1.1]),
        ("((<mug>))", [1.1 * 1.1]),
        ("(a <mug> (with <mug>:0.5):1.3) <mug>", [1.3, 0.5, 1.0]),
        (r"\(<mug>\)", [1.0]),
        ("(<mug>:x)", [1.1]),
    ],
)
def test_prompt_weights_follow_the_hosts_parentheses(text, weights):
    assert [one.weight for one in occurrences(text, (MUG,))] == pytest.approx(weights)


@pytest.mark.parametrize(
    ("word", "spoken"),
    [("mug", "MUG"), ("istanbul", "ISTANBUL"), ("İnek", "İnek"), ("σας", "ΣΑΣ"), ("µ", "μ"), ("mug", "ｍｕｇ")],
)
def test_a_word_is_found_in_whatever_case_and_width_it_is_written(word, spoken):
    renamed = placed("mug", placeholder=word)
    (found,) = occurrences(f"a <{spoken}>", (renamed,))
    assert found.placed is renamed
    assert not occurrences("a <istanbu> and <ıstanbul>", (renamed,))


def test_a_renamed_word_replaces_the_learned_one():
    renamed = placed("mug", placeholder="Cup")
    assert written("<cup> <mug>", renamed) == "CUP0 <mug>"


@pytest.mark.parametrize(
    ("phrase", "expected"),
    [("[V] mug", [0, "mug"]), ("[V]", [0]), ("[V][V] mug", [0, 1, "mug"]), ("a [V] in style", ["a", 0, "in style"])],
)
def test_a_phrase_is_slots_and_words(phrase, expected):
    assert pieces(phrase) == expected


@pytest.mark.parametrize(
    ("phrase", "class_word", "ordinary"),
    [
        ("[V]", "mug", True),
        ("[V] style", "watercolor", True),
        ("[V] mug", "Mug", False),
        ("[V][V]", "mug", False),
        ("[V]", "stuffed toy", False),
    ],
)
def test_a_phrase_is_ordinary_where_people_write_what_it_says_with_its_class_word(phrase, class_word, ordinary):
    assert is_ordinary(phrase, class_word) is ordinary


def test_what_was_probably_meant_is_named():
    found = near_misses("<mugg> <mug > <mug> <lora:x:1> a < b", (MUG, WASH))
    assert found == {"<mugg>": "<mug>", "<mug >": "<mug>"}


def marks(*rows):
    return [(row, Mark("mug", occurrence, slot, weight)) for row, occurrence, slot, weight in rows]


def test_slots_list_rows_in_slot_order_once_per_occurrence():
    tokens = marks((4, 0, 0, 1.0), (5, 0, 1, 1.0), (6, 0, None, 1.0), (90, 1, 0, 1.2), (91, 1, 1, 1.2))
    (slots,) = slots_of({"l": tokens}, 154, {"mug": "hash"})
    assert slots.rows == {"l": (4, 5, 90, 91)} and slots.weights == (1.0, 1.2) and slots.concept == "hash"
    assert slots.category == {"l": (6,)}


def test_the_category_goes_with_its_occurrence_in_every_encoder():
    one = marks((4, 0, 0, 1.0), (5, 0, None, 1.0), (6, 0, None, 1.0))
    other = marks((75, 1, 0, 1.0), (76, 1, None, 1.0), (77, 1, None, 1.0), (90, 2, 0, 1.0), (91, 2, None, 1.0))
    (slots,) = slots_of({"l": one + other, "g": one}, 77, {})[:1]
    assert slots.category == {"l": (5, 6, 76)}
    (both,) = slots_of({"l": one, "g": one}, 77, {})
    assert both.category == {"l": (5, 6), "g": (5, 6)}


def test_an_occurrence_that_was_cut_off_has_no_rows():
    (slots,) = slots_of({"l": marks((4, 0, 0, 1.0), (90, 1, 0, 1.2))}, 77, {})
    assert slots.rows == {"l": (4,)} and slots.weights == (1.0,)


def test_encoders_that_read_different_texts_get_entries_of_their_own():
    both = slots_of({"l": marks((4, 0, 0, 1.0)), "g": marks((2, 0, 0, 1.0))}, 77, {})
    apart = slots_of({"l": marks((4, 0, 0, 1.0)), "g": marks((2, 0, 0, 1.3))}, 77, {})
    assert [dict(one.rows) for one in both] == [{"l": (4,), "g": (2,)}]
    assert [dict(one.rows) for one in apart] == [{"l": (4,)}, {"g": (2,)}]
