import pytest

from s5.purification.prompts import class_prompts, prompts_digest


def test_the_cards_phrases_go_before_defaults():
    prompts = class_prompts(["road", "ImSurf", "solar_panel"], {"road": ["street"]})
    assert list(prompts) == ["road", "ImSurf", "solar_panel"]
    assert prompts["road"] == ("street",)
    assert prompts["ImSurf"][0] == "impervious surface such as roads and parking lots"
    assert prompts["solar_panel"] == ("solar panel",)


@pytest.mark.parametrize("name", ["Low veg.", "low_vegetation", "LowVeg"])
def test_spellings_of_a_name_are_one(name):
    assert class_prompts([name])[name][0].startswith("low vegetation")


@pytest.mark.parametrize("given", [{"raod": ["street"]}, {"road": []}, {"road": "street"}])
def test_prompts_that_cannot_be_are_refused(given):
    with pytest.raises(ValueError, match="prompts: "):
        class_prompts(["road", "water"], given)


def test_the_digest_depends_on_words_and_order():
    one, other = {"a": ("x",), "b": ("y", "z")}, {"a": ("x",), "b": ("z", "y")}
    assert prompts_digest(one) == prompts_digest(dict(one))
    assert len({prompts_digest(p) for p in (one, other, dict(reversed(one.items())))}) == 3
