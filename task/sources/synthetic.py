"""`synthetic`: a made-up survey whose answers follow from question text and group.

Every group has a position on each topic. How a group leans on a question follows from its
position on the question's topic and from which side of the topic the issue stands on; the options
stand on a scale, and people choose options near the group's leaning. A few answered questions
therefore reveal a group's positions, and held-out groups can be predicted from context.
"""

from itertools import product

import numpy as np
from numpy.typing import NDArray

from task.config import DataConfig
from task.errors import ConfigError
from task.seeding import generator
from task.survey import Question, Survey, build_survey

RESPONDENTS = 800
"""People asked per (group, question); the shares carry their sampling noise."""

# Topic -> issues in favour (+1) and against (-1) of what people high on the topic want.
TOPICS: dict[str, dict[str, int]] = {
    "climate policy": {
        "a tax on carbon emissions": 1,
        "closing all coal power stations": 1,
        "subsidies for heat pumps": 1,
        "building new airports": -1,
        "cheaper petrol": -1,
        "more oil drilling": -1,
    },
    "immigration": {
        "admitting more refugees": 1,
        "faster work permits for foreigners": 1,
        "voting rights for long-term residents": 1,
        "stricter border controls": -1,
        "a yearly cap on immigration": -1,
        "deporting people without papers": -1,
    },
    "the welfare state": {
        "a higher minimum wage": 1,
        "a tax on large fortunes": 1,
        "free school meals": 1,
        "lower taxes for companies": -1,
        "cutting unemployment benefits": -1,
        "private health insurance for all": -1,
    },
    "religion in public life": {
        "prayers in state schools": 1,
        "public holidays for religious feasts": 1,
        "religious advice to lawmakers": 1,
        "opening shops on holy days": -1,
        "banning religious symbols in offices": -1,
        "civil weddings only": -1,
    },
    "new technology": {
        "self-driving buses": 1,
        "artificial intelligence in hospitals": 1,
        "gene editing of crops": 1,
        "a pause in robot development": -1,
        "banning phones in class": -1,
        "a tax on automation": -1,
    },
    "world trade": {
        "free trade agreements": 1,
        "foreign investment in farms": 1,
        "a common regional currency": 1,
        "tariffs on imported cars": -1,
        "buying only home-made goods": -1,
        "protecting national champions": -1,
    },
}

Scale = tuple[tuple[str, float], ...]

# Wording -> options with their place on the scale from against (-1) to in favour (+1).
WORDINGS: dict[str, Scale] = {
    "Do you support or oppose {issue}{where}?": (
        ("Strongly support", 1.0),
        ("Somewhat support", 0.35),
        ("Somewhat oppose", -0.35),
        ("Strongly oppose", -1.0),
    ),
    "Would {issue} be good or bad{where}?": (
        ("Good", 0.8),
        ("Neither good nor bad", 0.0),
        ("Bad", -0.8),
    ),
    "Thinking of {issue}{where}: are you in favour?": (("Yes", 0.7), ("No", -0.7)),
    "How important is {issue}{where} to you?": (
        ("Very important", 1.0),
        ("Rather important", 0.4),
        ("Not very important", -0.3),
        ("Not at all important", -0.9),
    ),
    "Some people want {issue}{where}. How far do you agree?": (
        ("Completely agree", 1.0),
        ("Mostly agree", 0.5),
        ("Neither agree nor disagree", 0.0),
        ("Mostly disagree", -0.5),
        ("Completely disagree", -1.0),
    ),
}

PLACES = ("", " in your country", " in your town", " for families", " for young people", " by 2030")
REGIONS = ("Northern", "Southern", "Eastern", "Western", "Coastal", "Highland", "Lakeside", "Urban")
PEOPLE = (
    "farmers",
    "students",
    "teachers",
    "nurses",
    "engineers",
    "pensioners",
    "shopkeepers",
    "artists",
    "miners",
    "parents",
)


def make_synthetic(data: DataConfig, seed: int) -> Survey:
    """Make a survey of `data.synthetic-groups` groups from the seed.

    Raises:
        ConfigError: more questions are asked for than can be worded.
    """
    worded = [
        (topic, issue, wording, place)
        for topic, issues in TOPICS.items()
        for issue, wording, place in product(issues, WORDINGS, PLACES)
    ]
    if data.synthetic_questions > len(worded):
        raise ConfigError(
            f"data.synthetic-questions = {data.synthetic_questions}: expected at most "
            f"{len(worded)}, the number of different questions this source can word."
        )
    chosen = generator(seed, "synthetic questions").permutation(len(worded))
    asked = [worded[i] for i in chosen[: data.synthetic_questions]]
    questions = [
        Question(
            wording.format(issue=issue, where=place),
            tuple(option for option, _ in WORDINGS[wording]),
        )
        for _, issue, wording, place in asked
    ]
    scales = [np.array([level for _, level in WORDINGS[wording]]) for _, _, wording, _ in asked]
    topics = np.array([list(TOPICS).index(topic) for topic, *_ in asked])
    sides = np.array([TOPICS[topic][issue] for topic, issue, *_ in asked])

    answers = []
    for name in _group_names(data.synthetic_groups):
        random = generator(seed, "synthetic group", name)
        positions = random.uniform(-1.3, 1.3, len(TOPICS))
        answered = random.choice(len(questions), data.synthetic_answered, replace=False)
        for index in sorted(answered.tolist()):
            leaning = sides[index] * positions[topics[index]] + random.normal(0, 0.1)
            shares = _answer(scales[index], leaning, random)
            answers.append((name, index, shares))
    return build_survey(questions, answers)


def _answer(
    scale: NDArray[np.float64], leaning: float, random: np.random.Generator
) -> NDArray[np.float64]:
    """Ask `RESPONDENTS` people who choose options near the group's leaning."""
    logits = -((scale - leaning) ** 2) / (2 * 0.6**2)
    probabilities = np.exp(logits - logits.max())
    return random.multinomial(RESPONDENTS, probabilities / probabilities.sum()) / RESPONDENTS


def _group_names(number: int) -> list[str]:
    names = [f"{region} {people}" for region, people in product(REGIONS, PEOPLE)]
    rounds = -(-number // len(names))
    numbered = names + [f"{name} {i}" for i in range(2, rounds + 1) for name in names]
    return numbered[:number]
