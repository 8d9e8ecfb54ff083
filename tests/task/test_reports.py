import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from task import records
from task.config import EvaluationConfig, RunConfig, RunSettings, TrainConfig
from task.evaluation import evaluation_splits
from task.reports import REPORTS, make_reports
from tests.task.examples import (
    SHORT_EPISODES,
    make_group,
    make_predictor,
    predict_one,
    question_tensors,
)

DATA = make_group([2, 3, 4, 2, 5, 3, 2, 2, 3, 4], held_back=[1, 8])
HELD_BACK = [1, 8]
NUM_CONTEXT = 3


def config_with(num_context=NUM_CONTEXT, num_draws=2, **train) -> RunConfig:
    return RunConfig(
        run=RunSettings(seed=4),
        train=replace(SHORT_EPISODES, **train),
        evaluation=EvaluationConfig(num_context=num_context, num_draws=num_draws),
    )


def report(name, data=DATA, config=None, predictor=None):
    predictor = predictor or make_predictor()
    return make_reports(predictor, data, config or config_with(), [name])[name]


def contexts(config, data=DATA):
    return [split.context.tolist() for split in evaluation_splits(data, config.evaluation, 4)]


def with_answers(questions):
    """The same data with other answers to these questions."""
    shares = DATA.answers.shares.copy()
    for question in questions:
        start = int(DATA.answers.lengths[:question].sum())
        length = int(DATA.answers.lengths[question])
        shares[start : start + length] = np.random.default_rng(100 + question).dirichlet(
            np.ones(length)
        )
    return replace(DATA, answers=replace(DATA.answers, shares=shares))


def test_the_loss_is_the_divergence_of_the_questions_that_train_and_are_no_context() -> None:
    config = config_with()
    total = number = 0
    for context in contexts(config):
        assert len(context) == NUM_CONTEXT
        targets = [q for q in range(10) if q not in [*context, *HELD_BACK]]
        for target in targets:
            p, _ = predict_one(make_predictor(), DATA, context, target)
            y = question_tensors(DATA, target)[1].numpy()
            cross_entropy = -(y * np.log(p)).sum()
            entropy = -(y * np.log(y)).sum()
            total += cross_entropy - entropy
        number += len(targets)
    assert number == 2 * (8 - NUM_CONTEXT)
    found = report(records.LOSS_BEFORE)
    assert found.weight == number
    assert found.total == pytest.approx(total, rel=1e-5)
    assert found.value > 0.01  # far from what rounding could tell


def test_the_gaussian_loss_is_reported_as_it_is_trained() -> None:
    config = config_with(num_draws=1, objective="gaussian")
    (context,) = contexts(config)
    losses = []  # of each option: the loss is a mean over options
    targets = [q for q in range(10) if q not in [*context, *HELD_BACK]]
    for target in targets:
        p, log_std = predict_one(make_predictor(), DATA, context, target)
        y = question_tensors(DATA, target)[1].numpy()
        losses.extend(0.5 * ((y - p) / np.exp(log_std)) ** 2 + log_std)
    found = report(records.LOSS_BEFORE, config=config)
    assert found.weight == len(targets)
    assert found.value == pytest.approx(np.mean(losses) + 0.5 * math.log(2 * math.pi), rel=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_the_loss_of_no_predictor_is_below_0_and_that_of_a_perfect_one_is_0(seed: int) -> None:
    data = make_group([2, 3, 4, 2, 5, 3], seed=seed, held_back=[0])
    assert report(records.LOSS_BEFORE, data, predictor=make_predictor(seed=seed)).value > 0

    predictor = make_predictor()
    with torch.no_grad():
        for parameter in predictor.parameters():
            parameter.zero_()
    lengths = data.answers.lengths
    even = np.concatenate([np.full(n, 1 / n) for n in lengths]).astype(np.float32)
    agrees = replace(data, answers=replace(data.answers, shares=even))
    assert report(records.LOSS_BEFORE, agrees, predictor=predictor).value == pytest.approx(
        0, abs=1e-6
    )


def test_options_that_nobody_chose_are_no_obstacle() -> None:
    shares = np.concatenate([np.eye(n)[0] for n in DATA.answers.lengths]).astype(np.float32)
    data = replace(DATA, answers=replace(DATA.answers, shares=shares))
    assert math.isfinite(report(records.LOSS_BEFORE, data).value)
    assert report(records.LOSS_BEFORE, data).value > 0


def test_the_loss_knows_nothing_of_the_held_back_questions() -> None:
    assert report(records.LOSS_BEFORE, with_answers(HELD_BACK)) == report(records.LOSS_BEFORE)
    assert report(records.LOSS_BEFORE, with_answers([0])) != report(records.LOSS_BEFORE)


def test_half_of_a_small_groups_questions_stay_targets_of_the_loss() -> None:
    config = config_with(num_context=8, num_draws=1)  # all that may train
    assert report(records.LOSS_BEFORE, config=config).weight == 4
    small = make_group([2, 3, 2], held_back=[0])
    assert report(records.LOSS_BEFORE, small, config_with(num_context=2, num_draws=1)).weight == 1


def test_the_score_is_that_of_the_held_back_questions_alone() -> None:
    config = config_with()
    scores = []
    for context in contexts(config):
        for target in HELD_BACK:
            p, _ = predict_one(make_predictor(), DATA, context, target)
            y = question_tensors(DATA, target)[1].numpy().astype(float)
            m = (p + y) / 2
            divergence = (p * np.log(p / m) + y * np.log(y / m)).sum() / 2
            scores.append(1 - math.sqrt(divergence))
    found = report(records.SCORE_BEFORE)
    assert found.weight == len(scores) == 4
    assert found.value == pytest.approx(np.mean(scores), rel=1e-5)
    # answers to questions that are never context of either draw do not matter
    used = {q for context in contexts(config) for q in context}
    unused = [q for q in range(10) if q not in used | set(HELD_BACK)]
    assert unused
    assert report(records.SCORE_BEFORE, with_answers(unused)) == found


def test_only_the_reports_that_are_asked_for_are_made() -> None:
    made = make_reports(make_predictor(), DATA, config_with(), [records.SCORE_BEFORE])
    assert list(made) == [records.SCORE_BEFORE]
    assert make_reports(make_predictor(), DATA, config_with(), []) == {}
    assert set(make_reports(make_predictor(), DATA, config_with(), REPORTS)) == {
        "loss-before-training",
        "alignment-score-before-training",
    }


def test_an_unknown_report_is_an_error_that_names_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"report 'los': expected one of loss-before-training, "):
        make_reports(make_predictor(), DATA, config_with(), [records.LOSS_BEFORE, "los"])


def test_reports_are_made_without_dropout_and_leave_the_parameters_alone() -> None:
    predictor = make_predictor()
    before = {name: p.detach().clone() for name, p in predictor.named_parameters()}
    config = config_with(feature_dropout=0.5)
    first = make_reports(predictor.train(), DATA, config, REPORTS)
    assert make_reports(predictor.train(), DATA, config, REPORTS) == first
    assert first == make_reports(
        make_predictor(), DATA, replace(config, train=TrainConfig()), REPORTS
    )
    assert all(torch.equal(before[name], p) for name, p in predictor.named_parameters())
