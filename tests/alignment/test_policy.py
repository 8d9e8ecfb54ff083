import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from alignment.config import PolicySettings
from alignment.policy import (
    letter_tokens,
    load_policy,
    make_policy,
    make_tokenizer,
    require_room,
)
from alignment.prompts import LETTERS, prompt_of
from task.errors import AlignmentError
from task.survey import Question
from tests.alignment import examples

QUESTIONS = [
    Question(f"Do you like {thing}?", options)
    for thing in ("tea", "rice", "snow", "rain", "jazz", "chess")
    for options in (("Yes", "No"), ("Yes", "No", "Maybe"), ("A lot", "Some", "Little", "Not"))
]
SMALL = PolicySettings(layers=1, width=16, heads=2, vocabulary=400, device="cpu")


@pytest.fixture(scope="module")
def policy():
    return make_policy(SMALL, QUESTIONS, seed=0)


def test_the_seed_decides_the_model():
    one, same, other = (make_policy(SMALL, QUESTIONS, seed) for seed in (0, 0, 1))
    weights = [p.model.lm_head.weight for p in (one, same, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_a_saved_policy_answers_as_before(policy, tmp_path):
    policy.model.save_pretrained(tmp_path)
    policy.tokenizer.save_pretrained(tmp_path)
    loaded = load_policy(str(tmp_path), SMALL)
    prompts = [prompt_of(question) for question in QUESTIONS[:4]]
    torch.testing.assert_close(
        loaded.next_token_log_probs(prompts, 2), policy.next_token_log_probs(prompts, 4)
    )
    assert loaded.tokenizer.padding_side == "left"


def test_letters_are_single_tokens_and_text_survives():
    tokenizer = make_tokenizer(QUESTIONS, 400)
    tokens = letter_tokens(tokenizer, "here")
    assert [tokenizer.decode([token]) for token in tokens] == [f" {letter}" for letter in LETTERS]
    text = prompt_of(Question("Café, naïve?", ("Ja", "日本")))
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_a_tokenizer_without_letters_is_refused():
    words = Tokenizer(models.WordLevel({"[UNK]": 0, "Answer": 1, ":": 2, "A": 3}, "[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]")
    with pytest.raises(AlignmentError, match=r"policy x: ' C' after 'Answer:' is not one token"):
        letter_tokens(tokenizer, "policy x")


def test_a_prompt_that_is_too_long_is_refused():
    tokenizer = examples.make_tokenizer()
    policy = type("P", (), {"model": examples.make_policy(tokenizer), "tokenizer": tokenizer})
    require_room(policy, [Question("q" * 100, ("a", "b"))])
    with pytest.raises(AlignmentError, match=r"prompt of \d+ tokens, and the policy takes 511"):
        require_room(policy, [Question("q" * 600, ("a", "b"))])
