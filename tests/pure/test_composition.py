import pytest
from concept_loom.personalization.composition import narrowed, woven

from .concepts import placed


def test_weaving_adds_words_and_replaces_the_same_word_in_any_order():
    mug, cup, loud = placed("mug"), placed("cup"), placed("mug", strength=2.0)
    assert woven((mug,), (cup,)) == woven((cup,), (mug,)) == (cup, mug)
    assert woven((mug, cup), (loud,)) == (cup, loud)


def test_a_role_can_be_narrowed_and_never_widened():
    subject = placed()
    with pytest.raises(ValueError, match="learned as subject"):
        narrowed(subject, "style")
    assert narrowed(subject, "subject").role == "subject"
