"""Small surveys, groups, models and oracles that several tests share."""

from dataclasses import replace

import numpy as np
import torch

from task.config import PredictorSettings, TrainConfig
from task.features import GroupData
from task.predictor import PreferencePredictor
from task.survey import Answers, Question, build_survey

SMALL = PredictorSettings(
    width=8, embedder_depth=2, num_layers=2, num_heads=2, feedforward_width=8, answer_gain=5.0
)
SHORT_EPISODES = TrainConfig(min_context=2, max_context=4, min_target=2, max_target=4)


def make_group(lengths, *, dimension=5, held_back=(), role="train", seed=0, group="A"):
    """Random answers to questions with these numbers of options, features in shuffled rows."""
    random = np.random.default_rng(seed)
    lengths = np.array(lengths, dtype=np.int64)
    size = int(lengths.sum())
    shares = np.concatenate([random.dirichlet(np.ones(n)) for n in lengths]).astype(np.float32)
    positions = np.arange(len(lengths))
    held_back = np.array(held_back, dtype=np.int64)
    return GroupData(
        group=group,
        role=role,
        features=random.normal(size=(size + 7, dimension)).astype(np.float32),
        rows=random.permutation(size + 7)[:size],
        answers=Answers(positions, lengths, shares),
        question_keys=random.integers(-(2**62), 2**62, len(lengths)),
        option_ranks=np.concatenate([np.arange(n) for n in lengths]),
        trainable=np.setdiff1d(positions, held_back),
        held_back=held_back,
    )


def of_one_survey(groups):
    """The same groups with their features in one array, as groups of a survey have them."""
    offsets = np.cumsum([0] + [len(data.features) for data in groups])
    features = np.concatenate([data.features for data in groups])
    return [
        replace(data, features=features, rows=data.rows + offset)
        for data, offset in zip(groups, offsets, strict=False)
    ]


def question_tensors(data, index):
    """Features and shares of one question, read option by option."""
    start = sum(data.answers.lengths[:index])
    rows = range(start, start + data.answers.lengths[index])
    x = np.stack([data.features[data.rows[row]] for row in rows])
    y = np.array([data.answers.shares[row] for row in rows], dtype=np.float32)
    return torch.from_numpy(x), torch.from_numpy(y)


def predict_one(predictor, data, context, target):
    """Softmaxed means and log deviations of one question's options, without any batching."""
    parts = [question_tensors(data, index) for index in context]
    context_x = torch.cat([x for x, _ in parts])[None]
    context_y = torch.cat([y for _, y in parts])[None]
    with torch.no_grad():
        mean, std = predictor.predict(context_x, context_y, question_tensors(data, target)[0][None])
    return mean[0].softmax(0).numpy(), std[0].log().numpy()


def make_predictor(dimension=5, settings=SMALL, seed=0, **changes):
    """A small predictor with seeded parameters and feature statistics that are not trivial."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        predictor = PreferencePredictor.of(settings, dimension, **changes)
        predictor.feature_mean.copy_(torch.randn(dimension))
        predictor.feature_std.copy_(torch.rand(dimension) + 0.5)
    return predictor


def make_survey(groups, *, num_questions=30, options=3, seed=0):
    """A survey in which every group answers as many questions as `groups` says."""
    random = np.random.default_rng(seed)
    questions = [
        Question(f"Question {q}?", tuple(f"option {q} {o}" for o in range(options)))
        for q in range(num_questions)
    ]
    return build_survey(
        questions,
        [
            (group, int(q), random.dirichlet(np.ones(options)))
            for group, number in groups.items()
            for q in random.permutation(num_questions)[:number]
        ],
    )
