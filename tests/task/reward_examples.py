"""Small reward models, and a slow oracle of their scores, that several tests share."""

from collections import Counter

import numpy as np
import torch

from task.config import EncoderConfig
from task.encoder import HashingEncoder, saved_settings
from task.population import PopulationAnswers
from task.predictor import PreferencePredictor
from task.reward import RewardModel
from task.survey import Question, Survey, build_survey
from tests.task.examples import SMALL, make_predictor

ENCODER = EncoderConfig(dimension=16)
TEA = Question("Tea?", ("yes", "no"))
MILK = Question("Milk?", ("some", "none", "much"))
CAKE = Question("Cake?", ("no", "yes", "maybe", "never"))
# Groups of unlike sizes: in a batch, the smaller contexts are padded.
SURVEY = build_survey(
    [TEA, MILK, CAKE],
    [
        ("A", 0, [0.25, 0.75]),
        ("B", 0, [0.9, 0.1]),
        ("B", 1, [0.2, 0.3, 0.5]),
        ("C", 1, [0.6, 0.3, 0.1]),
        ("C", 2, [0.4, 0.3, 0.2, 0.1]),
        ("C", 0, [0.5, 0.5]),
    ],
)
GROUPS = ("A", "B", "C")


def population_of(asked: dict[Question, list[list[float]]]) -> PopulationAnswers:
    """Sums of training groups' answers: question to one distribution for each group."""
    keys = sorted(asked, key=lambda question: question.key)
    totals = []
    for question in keys:
        by_option = zip(question.options, np.sum(asked[question], axis=0), strict=True)
        totals.append([total for _, total in sorted(by_option)])
    return PopulationAnswers(
        np.array([question.key for question in keys]),
        np.array([len(asked[question]) for question in keys]),
        np.cumsum([0, *map(len, totals)]),
        np.concatenate(totals),
    )


def make_tiny_predictor(
    asked: dict[Question, list[list[float]]] | None = None, weight: float = 0.0, seed: int = 0
) -> PreferencePredictor:
    """A predictor of hashed texts; with `asked` it mixes the population's answers in."""
    settings = SMALL.__class__(**{**vars(SMALL), "population_weight": weight})
    answers = population_of(asked) if asked else None
    predictor = make_predictor(
        dimension=ENCODER.dimension,
        settings=settings,
        seed=seed,
        encoder=saved_settings(ENCODER),
        population_size=(len(answers.keys), len(answers.totals)) if answers else (0, 0),
    )
    if answers:
        predictor.population.store(answers)
    return predictor


def make_reward(predictor: PreferencePredictor | None = None, **arguments) -> RewardModel:
    """A reward model with the contexts of all groups."""
    contexts = dict.fromkeys(GROUPS, SURVEY)
    return RewardModel(
        predictor or make_tiny_predictor(), contexts, **{"device": "cpu", **arguments}
    )


def oracle_means(predictor, survey: Survey, group: str, question: Question) -> np.ndarray:
    """Means of one question's options for one group: no batch, no padding, no cache."""
    encode = HashingEncoder(ENCODER).encode
    answers = survey.answers[group]
    asked = [survey.questions[position] for position in answers.questions]
    with torch.no_grad():
        mean, _ = predictor.predict(
            torch.from_numpy(encode(asked))[None],
            torch.from_numpy(answers.shares)[None],
            torch.from_numpy(encode([question]))[None],
        )
    return mean[0].double().numpy()


def oracle_shares(predictor, survey, group, question, asked=None, weight=0.0) -> np.ndarray:
    """Shares of the options, each training group's answer counted as `weight` of the network's."""
    means = oracle_means(predictor, survey, group, question)
    shares = np.exp(means - means.max()) / np.exp(means - means.max()).sum()
    for known, answers in (asked or {}).items():
        if known.text == question.text and Counter(known.options) == Counter(question.options):
            place = [known.options.index(option) for option in question.options]
            added = np.sum([np.array(each)[place] for each in answers], axis=0)
            shares = (shares + weight * added) / (1 + weight * len(answers))
    return shares
