import pytest

from pipeline.model.rules import PostProcessing, rules_of


def test_rules_on_a_card():
    rules = PostProcessing(components="largest", fill_holes=True, flip_average=True)
    assert rules_of({"postprocessing": rules.as_card()}) == rules
    assert str(rules) == "components largest, fill holes, flip average"
    assert rules.change_anything


def test_a_card_without_rules_changes_nothing():
    assert rules_of({}) == PostProcessing()
    assert not PostProcessing().change_anything


@pytest.mark.parametrize(
    "named", [{"components": "two"}, {"fill_holes": 1}, {"smooth": True}, "largest", {"components": None}]
)
def test_cards_with_other_rules_are_refused(named):
    with pytest.raises(ValueError, match="card: expected post-processing by"):
        rules_of({"postprocessing": named})
