import json

import pytest

from softbio_jax.errors import UserError
from softbio_jax.evaluation.zero_shot.prompts import PROMPTS, load_prompts
from softbio_jax.tasks import AGE, EMOTION, GENDER, TASKS

GENDER_ENTRY = {"templates": ["a {}.", "see the {}"], "names": {"female": "woman", "male": "man"}}


def write(tmp_path, content):
    path = tmp_path / "mine.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


class TestCarried:
    def test_thesis_is_one_prompt_a_class_in_label_order(self):
        tasks = load_prompts("thesis").tasks
        assert list(tasks) == list(TASKS)
        assert {task: len(classes) for task, classes in tasks.items()} == {
            spec.name: spec.num_classes for spec in (AGE, GENDER, EMOTION)
        }
        assert len(load_prompts("thesis").texts()) == 18 == len(set(load_prompts("thesis").texts()))

    @pytest.mark.parametrize(
        ("task", "label", "text"),
        [
            ("age", "3-9", "a photo of a person between 3 and 9 years old"),
            ("age", "70+", "a photo of a person 70 years old or older"),
            ("gender", "female", "a photo of a female person"),
            ("emotion", "surprise", "a photo of a surprised person"),
            ("emotion", "angry", "a photo of an angry person"),
        ],
    )
    def test_thesis_texts(self, task, label, text):
        place = TASKS[task].classes.index(label)
        assert load_prompts("thesis").tasks[task][place] == (text,)

    def test_every_age_prompt_names_its_own_bounds(self):
        for label, (text,) in zip(AGE.classes, load_prompts("thesis").tasks["age"], strict=True):
            assert [word for word in text.split() if word.isdigit()] == label.rstrip("+").split("-")

    def test_fer2013_is_the_official_six_templates(self):
        prompts = load_prompts("fer2013")
        assert list(prompts.tasks) == ["emotion"]
        assert prompts.tasks["emotion"][EMOTION.classes.index("fear")] == (
            "a photo of a fearful looking face.",
            "a photo of a face showing the emotion: fearful.",
            "a photo of a face looking fearful.",
            "a face that looks fearful.",
            "they look fearful.",
            "look at how fearful they are.",
        )


class TestFile:
    def test_any_templates_and_tasks_in_label_order(self, tmp_path):
        prompts = load_prompts(write(tmp_path, {"gender": GENDER_ENTRY}))
        assert prompts.name == "mine"
        assert prompts.tasks == {"gender": (("a man.", "see the man"), ("a woman.", "see the woman"))}

    @pytest.mark.parametrize("name", PROMPTS)
    def test_a_registered_set_serves_as_a_pattern(self, tmp_path, name):
        text = PROMPTS[name].read_text()
        assert load_prompts(write(tmp_path, text)).tasks == load_prompts(name).tasks

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("{", "not JSON"),
            ("[]", "expected an object.*found list"),
            ({}, "unknown task.*found none"),
            ({"sex": GENDER_ENTRY}, "unknown task.*found sex"),
            ({"gender": ["a", "b"]}, "another form"),
            ({"gender": GENDER_ENTRY | {"templates": []}}, "another form"),
            ({"gender": GENDER_ENTRY | {"templates": ["a man"]}}, "another form"),
            ({"gender": GENDER_ENTRY | {"templates": ["{} {}"]}}, "another form"),
            ({"gender": GENDER_ENTRY | {"names": {"male": 1, "female": 2}}}, "another form"),
            ({"gender": GENDER_ENTRY | {"order": []}}, "another form"),
            (
                {"gender": GENDER_ENTRY | {"names": {"male": "m", "woman": "w"}}},
                r"male, female.*missing \['female'\], unknown \['woman'\]",
            ),
        ],
    )
    def test_mistakes_are_reported(self, tmp_path, content, message):
        with pytest.raises(UserError, match=message) as caught:
            load_prompts(write(tmp_path, content))
        assert "mine.json" in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_no_such_file(self):
        with pytest.raises(UserError, match=r"no such prompts: nowhere\.json.*fer2013, thesis"):
            load_prompts("nowhere.json")
