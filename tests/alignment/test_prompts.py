import pytest

from alignment.prompts import answers_of, chosen_option, prompt_of
from task.survey import Question

OPTIONS = ("Tea", "Coffee", "A", "None of these.")


def test_a_prompt_lists_lettered_options():
    question = Question("Best drink?", ("Tea", "Coffee"))
    assert prompt_of(question) == "Question: Best drink?\nTea: A\nCoffee: B\nAnswer:"
    assert answers_of(question) == [" A", " B"]


@pytest.mark.parametrize(
    ("answer", "index"),
    [
        ("B", 1),
        (" B\n", 1),
        ("B.", 1),
        ("(B)", 1),
        ("B) Coffee", 1),
        ("B. coffee", 1),
        ("coffee", 1),
        ("None of these", 3),
        ("A", 0),  # the letter, although an option is called so
        ("C", 2),
        ("E", None),
        ("b", None),
        ("B. Tea", None),
        ("B Tea", None),
        ("I like coffee", None),
        ("", None),
    ],
)
def test_an_answer_names_an_option(answer, index):
    assert chosen_option(answer, OPTIONS) == index
