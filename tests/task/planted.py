"""Groups whose answers follow from the features of the options, so that there is much to learn."""

import numpy as np

from task.config import TrainConfig
from task.features import GroupData
from task.survey import Answers

DIMENSION = 4
TRAIN = TrainConfig(
    num_rounds=2,
    local_steps=3,
    min_context=2,
    max_context=4,
    min_target=2,
    max_target=4,
    learning_rate=0.01,
)


def softmax(values):
    exponentials = np.exp(values - values.max())
    return exponentials / exponentials.sum()


def planted_groups(
    tastes, *, roles=None, num_questions=60, lengths=(2, 3, 4), held_back=6, seed=0, asked=None
):
    """Groups that all answer the same questions, each by its taste: a direction of features.

    Args:
        tastes: for each group the weights of the features.
        roles: for each group its role; None: all train.
        num_questions: of the survey.
        lengths: numbers of options, in turns.
        held_back: how many of the first questions of a training group are held back.
        seed: of the features.
        asked: for each group how many questions, from the last backwards; None: all.
    """
    random = np.random.default_rng(seed)
    options = np.array([lengths[q % len(lengths)] for q in range(num_questions)])
    features = random.normal(size=(options.sum(), DIMENSION)).astype(np.float32)
    starts = np.cumsum([0, *options])
    keys = random.integers(-(2**62), 2**62, num_questions)
    groups = []
    for number, taste in enumerate(tastes):
        role = roles[number] if roles else "train"
        first = num_questions - (asked[number] if asked else num_questions)
        questions = np.arange(first, num_questions)
        shares = [softmax(features[starts[q] : starts[q + 1]] @ np.array(taste)) for q in questions]
        positions = np.arange(len(questions))
        back = positions[:held_back] if role == "train" else positions[:0]
        groups.append(
            GroupData(
                group=f"g{number}",
                role=role,
                features=features,
                rows=np.arange(starts[first], starts[-1]),
                answers=Answers(
                    questions, options[first:], np.concatenate(shares).astype(np.float32)
                ),
                question_keys=keys[first:],
                option_ranks=np.concatenate([np.arange(n) for n in options[first:]]),
                trainable=np.setdiff1d(positions, back),
                held_back=back,
            )
        )
    return groups
