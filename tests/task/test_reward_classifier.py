import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from task.encoder import saved_settings
from task.errors import RewardError
from task.reward import RewardModel
from task.reward_classifier import RewardForSequenceClassification
from task.survey import Question, build_survey
from tests.task.examples import SMALL, make_predictor
from tests.task.models import save_decoder, save_encoder
from tests.task.reward_examples import make_reward, population_of
from tests.task.test_feature_cache import config_of

TEA, GOOD = Question("tea ?", ("yes", "no")), Question("good or bad ?", ("good", "bad", "maybe"))
SURVEY = build_survey([TEA, GOOD], [("A", 0, [0.2, 0.8]), ("A", 1, [0.5, 0.2, 0.3])])
PROMPTS = ["tea ?", "tea ?", "is coffee often bad ?", "what is good ?"]
RESPONSES = ["yes", "no or maybe", "never", "tea , coffee , tea and more tea , often"]
TEXTS = [f"{prompt} {response}" for prompt, response in zip(PROMPTS, RESPONSES, strict=True)]
ASKED = {TEA: [[0.1, 0.9]]}


def reward_of(folder, **changes):
    """A reward model that mixes answers of the population in, which single logits ignore."""
    config = config_of(folder, **changes)
    answers = population_of(ASKED)
    predictor = make_predictor(
        dimension=32,
        settings=SMALL.__class__(**{**vars(SMALL), "population_weight": 0.5}),
        encoder=saved_settings(config),
        population_size=(len(answers.keys), len(answers.totals)),
    )
    predictor.population.store(answers)
    predictor.mean.weight.data.mul_(100)  # an untrained predictor hardly tells texts apart
    return RewardModel(predictor, {"A": SURVEY}, device="cpu")


@pytest.fixture(scope="module")
def reward(tmp_path_factory):
    return reward_of(save_encoder(tmp_path_factory.mktemp("bert")))


@pytest.fixture(scope="module")
def classifier(reward):
    return RewardForSequenceClassification.of(reward, "A")


def logits_of(model, tokenizer, texts):
    tokens = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
    return model(**tokens).logits


def test_logits_are_the_reward_models_scores(reward, classifier):
    with torch.no_grad():
        logits = logits_of(*classifier, TEXTS)
    assert logits.shape == (4, 1)
    expected = reward.score(PROMPTS, RESPONSES, group="A")
    assert expected.std() > 0.1
    torch.testing.assert_close(logits[:, 0], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_decoder_without_padding_token_scores_alike(tmp_path, kind):
    reward = reward_of(save_decoder(tmp_path, kind=kind))
    model, tokenizer = RewardForSequenceClassification.of(reward, "A")
    with torch.no_grad():
        logits = logits_of(model, tokenizer, TEXTS)[:, 0]
    expected = reward.score(PROMPTS, RESPONSES, group="A")
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-4)
    assert model.config.pad_token_id == tokenizer.pad_token_id is not None


@pytest.mark.filterwarnings("ignore::task.feature_cache.TruncationWarning")
def test_texts_are_cut_where_the_reward_model_cuts_them(tmp_path):
    reward = reward_of(save_encoder(tmp_path), max_length=8)
    model, tokenizer = RewardForSequenceClassification.of(reward, "A")
    with torch.no_grad():
        logits = logits_of(model, tokenizer, TEXTS)[:, 0]
    expected = reward.score(PROMPTS, RESPONSES, group="A")
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-4)


def test_padding_and_the_rest_of_the_batch_do_not_matter(classifier):
    model, tokenizer = classifier
    with torch.no_grad():
        together = logits_of(model, tokenizer, TEXTS)
        for text, logit in zip(TEXTS, together, strict=True):
            alone = tokenizer(text, return_tensors="pt")
            torch.testing.assert_close(model(alone["input_ids"]).logits[0], logit)
            padded = tokenizer(text, padding="max_length", max_length=60, return_tensors="pt")
            torch.testing.assert_close(model(**padded).logits[0], logit)


def test_it_survives_being_saved_and_loaded(classifier, tmp_path):
    model, tokenizer = classifier
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert type(loaded) is RewardForSequenceClassification
    assert (loaded.config.num_labels, loaded.config.group) == (1, "A")
    with torch.no_grad():
        expected = logits_of(*classifier, TEXTS)
        logits = logits_of(loaded, AutoTokenizer.from_pretrained(tmp_path), TEXTS)
    torch.testing.assert_close(logits, expected)
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name


def test_no_answers_of_other_groups_are_inside(classifier):
    names = set(classifier[0].state_dict())
    assert not [name for name in names if "population" in name]
    assert {"context_x_Cd", "context_y_C"} <= names
    assert classifier[0].context_y_C.numel() == 5


def test_gradients_flow_to_the_encoder_and_to_the_predictor(classifier):
    model, tokenizer = classifier
    model.zero_grad()
    logits_of(model, tokenizer, TEXTS).sum().backward()
    for part in (model.encoder.embeddings.word_embeddings, *model.predictor.embedder[:1]):
        assert part.weight.grad.abs().sum() > 0
    model.zero_grad()


def test_an_encoder_that_reads_no_tokens_is_an_error():
    with pytest.raises(RewardError, match="encoder is 'hashing'"):
        RewardForSequenceClassification.of(make_reward(), "A")


def test_an_encoder_whose_text_lists_all_options_is_an_error(tmp_path):
    reward = reward_of(save_encoder(tmp_path), text_format="alpaca")
    with pytest.raises(RewardError, match="reads 'alpaca' texts"):
        RewardForSequenceClassification.of(reward, "A")


def test_a_group_without_context_is_an_error(reward):
    with pytest.raises(RewardError, match=r"Unknown group 'B'\. Here: 'A'"):
        RewardForSequenceClassification.of(reward, "B")
