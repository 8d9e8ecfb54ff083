import warnings
from collections import Counter

import numpy as np
import pytest
from transformers import AutoModel

from task.config import EncoderConfig
from task.encoder import HashingEncoder, TransformersEncoder, saved_settings
from task.errors import EncoderError
from task.feature_cache import FeatureCache, TruncationWarning
from task.reward import RewardModel
from task.survey import Question, build_survey
from tests.task.examples import make_predictor
from tests.task.models import save_encoder
from tests.task.reward_examples import ENCODER, SURVEY, TEA, make_reward

QUESTIONS = [Question("Tea?", ("yes", "no", "yes")), Question("Milk?", ("yes", "much"))]
CONTEXT = build_survey([TEA], [("Me", 0, [0.25, 0.75])])


@pytest.fixture
def encoded(monkeypatch) -> Counter:
    """How often each text was encoded by hashing."""
    counts = Counter()
    encode = HashingEncoder.encode

    def counted(self, questions):
        counts.update((q.text, option) for q in questions for option in q.options)
        return encode(self, questions)

    monkeypatch.setattr(HashingEncoder, "encode", counted)
    return counts


def config_of(folder, **changes):
    return EncoderConfig(name=str(folder), device="cpu", **changes)


def test_features_are_the_encoders_whatever_is_known_already(encoded):
    cache = FeatureCache(ENCODER)
    for questions in (QUESTIONS[1:], QUESTIONS, QUESTIONS[::-1]):
        expected = HashingEncoder(ENCODER).encode(questions)
        np.testing.assert_array_equal(cache.features(questions), expected)


def test_every_text_is_encoded_once(encoded):
    cache = FeatureCache(ENCODER)
    for _ in range(3):
        cache.features(QUESTIONS)
    cache.features([Question("Tea?", ("no", "never"))])
    texts = [("Tea?", "yes"), ("Tea?", "no"), ("Milk?", "yes"), ("Milk?", "much")]
    assert encoded == dict.fromkeys([*texts, ("Tea?", "never")], 1)


def test_a_surveys_features_are_taken_from_disk(encoded, tmp_path, monkeypatch):
    monkeypatch.setenv("PLURALLLM_CACHE", str(tmp_path))
    for _ in range(2):  # the second time they are there already
        cache = FeatureCache(ENCODER)
        cache.preload(QUESTIONS)
        expected = HashingEncoder(ENCODER).encode(QUESTIONS[::-1])
        encoded.clear()
        np.testing.assert_array_equal(cache.features(QUESTIONS[::-1]), expected)
        assert not encoded


def test_a_reward_model_encodes_every_text_once(encoded):
    reward = make_reward()
    prompts, responses = ["Tea?", "Tea?", "Jam?"], ["yes", "a cup", "a cup"]
    for group in ("A", "B", "C"):
        reward.score(prompts, responses, group=group, against=[["yes", "no"], "no", "none"])
    reward.scores(prompts, responses)
    reward.score(prompts, responses, context=SURVEY, group="B")
    assert set(encoded.values()) == {1}
    assert set(encoded) >= {("Jam?", "a cup"), ("Jam?", "none"), ("Milk?", "much")}


def test_the_texts_used_last_are_kept(encoded):
    cache = FeatureCache(ENCODER, most_texts=2)
    one, two, three = (Question(f"{number}?", ("yes",)) for number in "123")
    for question in (one, two, one, three, one, two):
        cache.features([question])
    assert encoded == {("1?", "yes"): 1, ("2?", "yes"): 2, ("3?", "yes"): 1}


def test_more_texts_at_once_than_are_kept_are_no_problem():
    cache = FeatureCache(ENCODER, most_texts=1)
    expected = HashingEncoder(ENCODER).encode(QUESTIONS)
    for _ in range(2):
        np.testing.assert_array_equal(cache.features(QUESTIONS), expected)


def test_texts_that_list_all_options_are_kept_by_question(tmp_path):
    config = config_of(save_encoder(tmp_path), text_format="alpaca")
    cache = FeatureCache(config)
    questions = [Question("tea?", ("yes", "no")), Question("tea?", ("no", "maybe", "yes"))]
    for asked in (questions[:1], questions, questions[::-1]):
        expected = TransformersEncoder(config).encode(asked)
        np.testing.assert_allclose(cache.features(asked), expected, atol=1e-5)


def test_too_long_responses_are_cut_and_counted(tmp_path):
    """[CLS] and [SEP] leave 10 of 12 tokens for the prompt's two, "tea ?", and eight words."""
    folder = save_encoder(tmp_path)
    encoder = config_of(folder, max_length=12)
    reward = RewardModel(
        make_predictor(dimension=32, encoder=saved_settings(encoder)), device="cpu", encoder=encoder
    )
    fits = "good " * 7 + "bad"
    longer = [fits + " tea" * number for number in (1, 2, 300)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        whole = reward.score(["tea ?"], [fits], context=CONTEXT)
    assert reward.cache.num_truncated == 0
    with pytest.warns(TruncationWarning, match=r"^3 of 4 texts are longer") as caught:
        scores = reward.score(["tea ?"] * 4, [*longer, "yes"], context=CONTEXT)
    assert len(caught) == 1
    assert reward.cache.num_truncated == 3
    assert scores[:3].tolist() == pytest.approx(whole.tolist() * 3, abs=1e-5)
    assert abs(scores[3] - whole[0]) > 1e-3
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # each is counted once, when it is encoded
        reward.score(["tea ?"] * 3, longer, context=CONTEXT)
    with pytest.warns(TruncationWarning, match=r"^1 of 1 texts"):
        reward.score(["tea ?"], [fits + " no no"], context=CONTEXT)
    assert reward.cache.num_truncated == 4


def test_an_encoder_that_gives_nan_is_an_error_and_nothing_is_kept(tmp_path):
    model = AutoModel.from_pretrained(save_encoder(tmp_path))
    model.embeddings.word_embeddings.weight.data[-1] = float("nan")  # of "##ing" alone
    model.save_pretrained(tmp_path)
    encoder = config_of(tmp_path)
    reward = RewardModel(
        make_predictor(dimension=32, encoder=saved_settings(encoder)), device="cpu", encoder=encoder
    )
    for _ in range(2):
        with pytest.raises(EncoderError, match="gives non-finite features"):
            reward.score(["tea?", "tea?"], ["yes", "yesing"], context=CONTEXT)
    assert reward.score(["tea?"], ["yes"], context=CONTEXT).isfinite().all()
