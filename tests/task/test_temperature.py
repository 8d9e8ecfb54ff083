"""Temperature scaling: against a grid of temperatures, and what it may not change."""

import numpy as np
import pytest
import torch

from task.config import EvaluationConfig
from task.episodes import make_episode
from task.evaluation import evaluation_splits, true_distributions
from task.temperature import cross_entropy, fit_temperature
from tests.task.examples import make_group, make_predictor, of_one_survey
from tests.task.reward_examples import make_reward

CONFIG = EvaluationConfig(num_context=3, num_draws=2)


class Sharpened:
    """A predictor that is surer than another one, by a factor on its logits."""

    def __init__(self, predictor, factor: float) -> None:
        self.predictor, self.factor = predictor, factor
        self.feature_mean = predictor.feature_mean

    def eval(self) -> None:
        self.predictor.eval()

    def log_distributions(self, episode):
        logs, stds = self.predictor.log_distributions(episode)
        return (logs * self.factor).log_softmax(-1), stds


@pytest.fixture
def groups():
    lengths = [2, 3, 4, 2, 3, 2, 5, 3]
    held_back = [5, 6, 7]
    return of_one_survey(
        [make_group(lengths, held_back=held_back, seed=s, group=g) for s, g in enumerate("AB")]
    )


def test_cross_entropy_is_the_mean_over_questions() -> None:
    logits = np.log(np.array([[0.5, 0.5, 1e-300], [0.2, 0.3, 0.5]]))
    logits[0, 2] = -np.inf
    true = np.array([[1.0, 0.0, 0.0], [0.0, 0.5, 0.5]], dtype=np.float32)
    expected = (-np.log(0.5) - 0.5 * np.log(0.3) - 0.5 * np.log(0.5)) / 2
    assert cross_entropy(logits, true) == pytest.approx(expected)


def test_no_other_temperature_fits_the_held_back_questions_better(groups) -> None:
    predictor = Sharpened(make_predictor(), 30.0)
    found = fit_temperature(predictor, groups, CONFIG, seed=0)

    def loss(temperature: float) -> float:
        losses = []
        for data in groups:
            for split in evaluation_splits(data, CONFIG, 0):
                assert set(split.target) == {5, 6, 7}  # held back, never trained
                with torch.no_grad():
                    logs = predictor.log_distributions(make_episode([(data, split)]))[0][0]
                true = true_distributions(data, split.target)
                losses.append(cross_entropy(logs.double().numpy() / temperature, true))
        return float(np.mean(losses))

    best = min(loss(t) for t in np.geomspace(0.05, 20, 200))
    assert loss(found) <= best + 1e-6
    assert loss(found) < loss(1.0)


def test_a_predictor_that_is_surer_by_a_factor_gets_a_temperature_higher_by_it(groups) -> None:
    plain = fit_temperature(Sharpened(make_predictor(), 8.0), groups, CONFIG, seed=0)
    surer = fit_temperature(Sharpened(make_predictor(), 16.0), groups, CONFIG, seed=0)
    assert surer == pytest.approx(2 * plain, rel=1e-3)


def test_scores_are_divided_by_the_temperature_and_their_order_stays() -> None:
    plain = make_reward()
    warm = make_reward()
    warm.temperature = 2.0
    prompts, responses, against = ["Tea?"] * 3, ["yes", "no", "never"], ["maybe"] * 3
    for given in (None, against):
        before = plain.score(prompts, responses, group="A", against=given)
        after = warm.score(prompts, responses, group="A", against=given)
        torch.testing.assert_close(after, before / 2, rtol=1e-4, atol=1e-6)
