from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from task.centralized import train_centralized
from task.config import EvaluationConfig, PredictorSettings
from task.episodes import Split, make_episode
from task.evaluation import evaluation_splits, predict_with, score_splits
from task.features import FeatureSums, feature_sums
from task.probes import ALPHAS, SMALLEST_SHARE, LinearProbe, MlpProbe
from task.survey import Answers
from tests.task.examples import make_group, of_one_survey
from tests.task.planted import DIMENSION, TRAIN, planted_groups

CONFIG = EvaluationConfig(num_context=20, num_draws=1)
SETTINGS = PredictorSettings(width=16, embedder_depth=3, num_heads=2)
NOTHING = np.array([], dtype=np.int64)
# All training groups like feature 0; the held-out one also likes feature 1 very much.
*TRAINING, STRANGER = planted_groups(
    [[1, 0, 0, 0], [1, 0.2, 0, 0], [1, -0.2, 0, 0], [1, 3, 0, 0]],
    roles=["train", "train", "train", "held-out"],
)


@pytest.fixture(scope="module")
def linear():
    return LinearProbe(TRAINING)


def with_answers(data, change):
    """The group with some questions' answers changed: a map of question to distribution."""
    shares = data.answers.shares.copy()
    for question, distribution in change.items():
        start = data.answers.starts[question]
        shares[start : start + data.answers.lengths[question]] = distribution
    answers = Answers(data.answers.questions, data.answers.lengths, shares)
    return replace(data, answers=answers)


def correlation(predicted_QO, data, questions, *, feature):
    """How predicted shares above uniform go with a feature."""
    above, values = [], []
    for row, question in zip(predicted_QO, questions, strict=True):
        number = data.answers.lengths[question]
        start = data.answers.starts[question]
        above += (row[:number] - 1 / number).tolist()
        values += data.features[data.rows[start : start + number], feature].tolist()
    return np.corrcoef(above, values)[0, 1]


# -- linear ----------------------------------------------------------------------------------------


def test_the_linear_probe_reads_a_groups_own_preference_from_its_context(linear):
    split = evaluation_splits(STRANGER, CONFIG, 0)[0]
    without = Split(NOTHING, split.target)
    told, untold = linear(STRANGER, split), linear(STRANGER, without)
    assert correlation(untold, STRANGER, split.target, feature=0) > 0.8
    assert abs(correlation(untold, STRANGER, split.target, feature=1)) < 0.4
    assert correlation(told, STRANGER, split.target, feature=1) > 0.6
    scores = {
        name: score_splits(linear, STRANGER, [each], NOTHING).all.value
        for name, each in (("told", split), ("untold", without))
    }
    assert scores["told"] > scores["untold"] + 0.05


@pytest.mark.parametrize("context", [0, 1, 20])
def test_linear_predictions_are_distributions_with_zeros_where_there_is_no_option(linear, context):
    predicted = linear(STRANGER, Split(np.arange(context), np.arange(20, 60)))
    lengths = STRANGER.answers.lengths[20:]
    assert predicted.shape == (40, 4)
    assert predicted.sum(1) == pytest.approx(1)
    exists = np.arange(4) < lengths[:, None]
    assert (predicted[~exists] == 0).all()
    assert (predicted[exists] > 0).all()


def test_without_context_the_linear_probe_is_the_ridge_of_the_pooled_groups(linear):
    mean, std = sum(
        (feature_sums(d) for d in TRAINING[1:]), feature_sums(TRAINING[0])
    ).mean_and_std()

    def rows(data, questions):
        x, y = [], []
        for question in questions:
            start, number = data.answers.starts[question], data.answers.lengths[question]
            options = range(start, start + number)
            standardised = [(data.features[data.rows[option]] - mean) / std for option in options]
            x += [each - np.mean(standardised, axis=0) for each in standardised]
            y += [data.answers.shares[option] - 1 / number for option in options]
        return np.array(x), np.array(y)

    pooled = [rows(data, data.trainable) for data in TRAINING]
    x, y = (np.concatenate(column) for column in zip(*pooled, strict=True))
    predicted = linear(STRANGER, Split(NOTHING, np.array([7])))[0]
    number = STRANGER.answers.lengths[7]
    guesses = []
    for alpha in ALPHAS:
        ridge = Ridge(alpha=alpha, fit_intercept=False).fit(x, y)
        shares = np.maximum(ridge.predict(rows(STRANGER, [7])[0]) + 1 / number, SMALLEST_SHARE)
        guesses.append(np.abs(shares / shares.sum() - predicted[:number]).max())
    assert min(guesses) < 1e-5  # one of the penalties
    assert max(guesses) > 1e-2  # and not any


def test_answers_to_the_questions_held_back_are_not_read():
    changed = [
        with_answers(data, {q: np.eye(data.answers.lengths[q])[0].tolist() for q in data.held_back})
        for data in TRAINING
    ]
    split = evaluation_splits(STRANGER, CONFIG, 0)[0]
    expected = LinearProbe(TRAINING)(STRANGER, split)
    np.testing.assert_array_equal(LinearProbe(changed)(STRANGER, split), expected)
    trained_on = with_answers(TRAINING[0], {TRAINING[0].trainable[0]: [1.0, 0.0]})
    other = LinearProbe([trained_on, *TRAINING[1:]])(STRANGER, split)
    assert np.abs(other - expected).max() > 1e-9


def test_answers_to_the_targets_are_not_read(linear):
    split = evaluation_splits(STRANGER, CONFIG, 0)[0]
    changed = with_answers(
        STRANGER, {q: np.eye(STRANGER.answers.lengths[q])[0].tolist() for q in split.target}
    )
    np.testing.assert_array_equal(linear(changed, split), linear(STRANGER, split))
    told = with_answers(
        STRANGER, {q: np.eye(STRANGER.answers.lengths[q])[0].tolist() for q in split.context}
    )
    assert np.abs(linear(told, split) - linear(STRANGER, split)).max() > 1e-3


def reordered(data):
    """The same group with the options of every question the other way round."""
    order = np.concatenate(
        [
            np.arange(start + number - 1, start - 1, -1)
            for start, number in zip(data.answers.starts, data.answers.lengths, strict=True)
        ]
    )
    answers = Answers(data.answers.questions, data.answers.lengths, data.answers.shares[order])
    return replace(
        data, answers=answers, rows=data.rows[order], option_ranks=data.option_ranks[order]
    )


def turned(predicted_QO, data, questions):
    return [
        row[: data.answers.lengths[q]][::-1] for row, q in zip(predicted_QO, questions, strict=True)
    ]


def test_the_order_of_options_does_not_matter_to_the_linear_probe(linear):
    split = evaluation_splits(STRANGER, CONFIG, 0)[0]
    expected = turned(linear(STRANGER, split), STRANGER, split.target)
    predicted = LinearProbe([reordered(data) for data in TRAINING])(reordered(STRANGER), split)
    for ours, theirs in zip(predicted, expected, strict=True):
        assert ours[: len(theirs)] == pytest.approx(theirs, abs=1e-6)


def test_a_linear_probe_works_with_few_questions():
    data = make_group([2, 2, 3], held_back=[2], group="B")
    probe = LinearProbe([data])
    assert probe(data, Split(np.array([0]), np.array([2])))[0].sum() == pytest.approx(1)


# -- MLP -------------------------------------------------------------------------------------------


def make_probe(seed=0, **changes):
    return MlpProbe(replace(SETTINGS, **changes), feature_sums(STRANGER), seed)


def test_mlp_predictions_are_distributions_with_zeros_where_there_is_no_option():
    split = Split(np.arange(5), np.arange(5, 60))
    predicted = predict_with(make_probe())(STRANGER, split)
    exists = np.arange(4) < STRANGER.answers.lengths[5:, None]
    assert predicted.sum(1) == pytest.approx(1, abs=1e-5)
    assert (predicted[~exists] == 0).all()
    assert (predicted[exists] > 0).all()


def test_the_mlp_probe_does_not_see_the_order_of_the_context():
    predict = predict_with(make_probe())
    context, target = np.arange(20), np.arange(20, 60)
    first = predict(STRANGER, Split(context, target))
    np.testing.assert_allclose(predict(STRANGER, Split(context[::-1], target)), first, atol=1e-6)
    other = predict(STRANGER, Split(context[:5], target))
    assert np.abs(other - first).max() > 1e-4


def test_the_order_of_options_does_not_matter_to_the_mlp_probe():
    predict = predict_with(make_probe())
    split = Split(np.arange(20), np.arange(20, 60))
    expected = turned(predict(STRANGER, split), STRANGER, split.target)
    for ours, theirs in zip(predict(reordered(STRANGER), split), expected, strict=True):
        assert ours[: len(theirs)] == pytest.approx(theirs, abs=1e-6)


def test_the_mlp_probe_gives_each_of_a_padded_batch_what_it_gives_it_alone():
    small, large = of_one_survey(
        [make_group([2, 3, 2, 2], seed=1), make_group([4, 2, 5, 3, 2, 2], seed=2)]
    )
    parts = [
        (small, Split(np.array([0]), np.array([1]))),
        (large, Split(np.array([0, 1, 2]), np.array([3, 4, 5]))),
    ]
    probe = MlpProbe(SETTINGS, feature_sums(small), 0)
    with torch.inference_mode():
        log_p, log_std = probe.log_distributions(make_episode(parts, multiple=16))
        for row, part in enumerate(parts):
            alone, alone_std = probe.log_distributions(make_episode([part]))
            own = make_episode([part]).option_mask_BQO[0]
            cut = (slice(own.shape[0]), slice(own.shape[1]))
            torch.testing.assert_close(log_p[row][cut][own], alone[0][own])
            torch.testing.assert_close(log_std[row][cut][own], alone_std[0][own])
    assert log_p.exp().isfinite().all()


def test_without_context_the_mlp_probe_reads_the_question_alone():
    predict = predict_with(make_probe())
    split = Split(NOTHING, np.arange(60))
    first = predict(STRANGER, split)
    assert first.sum(1) == pytest.approx(1, abs=1e-5)
    assert np.ptp(first[:, 0]) > 0.01
    changed = with_answers(
        STRANGER, {q: np.eye(STRANGER.answers.lengths[q])[0].tolist() for q in range(60)}
    )
    np.testing.assert_array_equal(predict(changed, split), first)


def test_the_mlp_probe_learns_what_is_planted():
    probe = MlpProbe(SETTINGS, feature_sums(TRAINING[0]), 0)
    (asked,) = TRAINING[:1]
    evaluated = evaluation_splits(asked, CONFIG, 0)

    def score():
        return score_splits(predict_with(probe), asked, evaluated, NOTHING).all.value

    before = score()
    config = replace(TRAIN, num_rounds=40, max_context=20, max_target=20)
    train_centralized(probe, TRAINING, config, seed=0, after_round=lambda _: None)

    def uniform(data, split):
        lengths = data.answers.lengths[split.target]
        return (np.arange(lengths.max()) < lengths[:, None]) / lengths[:, None]

    guess = score_splits(uniform, asked, evaluated, NOTHING).all.value
    assert score() > max(before, guess) + 0.05


def test_initial_probes_depend_on_the_seed_alone():
    torch.manual_seed(4)
    first = make_probe(seed=1)
    state = torch.get_rng_state()
    again = make_probe(seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    other = make_probe(seed=2)
    for p, q, r in zip(first.parameters(), again.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q)
        assert not torch.equal(p, r)


def test_features_are_standardised_if_the_settings_say_so():
    sums = FeatureSums(10.0, np.full(DIMENSION, 20.0), np.full(DIMENSION, 130.0))
    probe = MlpProbe(SETTINGS, sums, 0)
    assert probe.feature_mean.tolist() == [2.0] * DIMENSION
    assert probe.feature_std.tolist() == [3.0] * DIMENSION
    plain = MlpProbe(replace(SETTINGS, standardise_features=False), sums, 0)
    assert (plain.feature_mean.tolist(), plain.feature_std.tolist()) == (
        [0.0] * DIMENSION,
        [1.0] * DIMENSION,
    )


def test_what_all_options_of_a_question_share_changes_no_linear_prediction(linear):
    split = Split(np.arange(10), np.arange(20, 60))
    before = linear(STRANGER, split)
    shifted = STRANGER.features.copy()
    for index, length in enumerate(STRANGER.answers.lengths):
        start = STRANGER.answers.starts[index]
        shifted[STRANGER.rows[start : start + length]] += 10.0 * (index % 3)
    assert linear(replace(STRANGER, features=shifted), split) == pytest.approx(before, abs=1e-4)
