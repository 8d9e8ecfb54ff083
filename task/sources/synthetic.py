"""`synthetic`: a made-up survey whose answers follow from question text and group.

Every option of a question speaks for one of six values, and every topic gives some values more
weight. Each group holds the values dear to a different degree: its latent position. How a group's
people distribute over the options follows from both. A few answered questions therefore reveal a
group's position, and held-out groups can be predicted from context, new questions included.
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

POSITION_SCALE = 1.2
"""Standard deviation of a group's position on a value, in logits."""

TOPIC_SCALE = 0.5
"""Standard deviation of the weight that a topic gives a value, in logits."""

# Value -> wordings of the option that speaks for it.
VALUES: dict[str, tuple[str, ...]] = {
    "nature": ("Protecting nature", "Clean air and nature", "Nature and wildlife"),
    "equality": ("Equality between people", "Less inequality, more equality", "Equality for all"),
    "freedom": ("Freedom of choice", "Personal freedom", "Freedom from regulation"),
    "tradition": ("Respect for tradition", "Tradition and customs", "Keeping our tradition"),
    "security": ("Safety and security", "Security of families", "National security"),
    "growth": ("Jobs and growth", "Economic growth", "Growth of businesses"),
}

TOPICS = (
    "farming",
    "housing",
    "schools",
    "hospitals",
    "public transport",
    "energy supply",
    "immigration",
    "foreign trade",
    "taxation",
    "policing",
    "artificial intelligence",
    "social media",
    "sports clubs",
    "city planning",
    "water use",
    "tourism",
)

WORDINGS = (
    "What should matter most in decisions about {topic}{where}?",
    "Thinking of {topic}{where}, which of these comes first for you?",
    "Which aim should guide the government on {topic}{where}?",
    "When people debate {topic}{where}, what is closest to your own view?",
    "What do you miss most in today's policy on {topic}{where}?",
)

PLACES = ("", " in your country", " in your town", " in rural areas", " after the next election")
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
    worded = list(product(TOPICS, WORDINGS, PLACES))
    if data.synthetic_questions > len(worded):
        raise ConfigError(
            f"data.synthetic-questions = {data.synthetic_questions}: expected at most "
            f"{len(worded)}, the number of different questions this source can word."
        )
    random = generator(seed, "synthetic questions")
    questions: list[Question] = []
    option_values: list[NDArray[np.int64]] = []  # per question, the value behind each option
    topic_logits: list[NDArray[np.float64]] = []  # per question, the topic's weight of each option
    for index in random.permutation(len(worded))[: data.synthetic_questions].tolist():
        topic, wording, where = worded[index]
        values = random.choice(len(VALUES), random.integers(3, 6), replace=False)
        wordings = [list(VALUES.values())[value] for value in values]
        options = tuple(str(random.choice(choices)) for choices in wordings)
        questions.append(Question(wording.format(topic=topic, where=where), options))
        option_values.append(values)
        topic_weights = generator(seed, "synthetic topic", topic).normal(
            0, TOPIC_SCALE, len(VALUES)
        )
        topic_logits.append(topic_weights[values])
    answers = []
    for name in _group_names(data.synthetic_groups):
        random = generator(seed, "synthetic group", name)
        position = random.normal(0, POSITION_SCALE, len(VALUES))
        answered = random.choice(len(questions), data.synthetic_answered, replace=False)
        for index in sorted(answered.tolist()):
            logits = position[option_values[index]] + topic_logits[index]
            answers.append((name, index, _ask(logits, random)))
    return build_survey(questions, answers, counts=True)


def _ask(logits: NDArray[np.float64], random: np.random.Generator) -> NDArray[np.float64]:
    """Return how many of `RESPONDENTS` people choose each option with these logits."""
    weights = np.exp(logits - logits.max())
    return random.multinomial(RESPONDENTS, weights / weights.sum()).astype(np.float64)


def _group_names(number: int) -> list[str]:
    names = [f"{region} {people}" for region, people in product(REGIONS, PEOPLE)]
    rounds = -(-number // len(names))
    numbered = names + [f"{name} {i}" for i in range(2, rounds + 1) for name in names]
    return numbered[:number]
