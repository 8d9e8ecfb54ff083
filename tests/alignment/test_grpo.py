"""TRL's own trainers, really training tiny models against our rewards."""

import numpy as np
import pytest
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from alignment.config import GrpoSettings, PolicySettings
from alignment.evaluation import Answering, optimum
from alignment.grpo import train_grpo
from alignment.policy import Policy, letter_tokens
from alignment.rewards import GroupReward, PluralReward
from alignment.scoring import RewardFunction
from alignment.survey_reward import SurveyReward
from alignment.warm_up import warm_up
from task.survey import Question
from tests.alignment.examples import make_policy, make_reward_model, make_tokenizer

QUESTION = Question("Tea?", ("Yes", "No", "Maybe"))
TEXTS = ["Best drink?", "Best meal?", "Best sport?"]
PLAIN = {"prompt": TEXTS}
CHAT = {"prompt": [[{"role": "user", "content": text}] for text in TEXTS]}
OWN_GROUP = PLAIN | {"group": ["Brazil", "Japan", "Kenya"]}
SURVEY = {
    "prompt": ["Tea?\nA. Yes\nB. No\nAnswer:"] * 3,
    "question": ["Tea?"] * 3,
    "options": [["Yes", "No"]] * 3,
}
REWARDS = {
    "plain prompts": (PLAIN, lambda model: GroupReward(model, "Japan")),
    "conversations": (CHAT, lambda model: PluralReward(model, aggregation="adaptive-alpha")),
    "group column": (OWN_GROUP, GroupReward),
    "survey": (SURVEY, lambda model: SurveyReward(model, ["Japan", "Kenya"], aggregation="nash")),
}


@pytest.mark.parametrize(
    ("kind", "trainer_class", "config_class"),
    [
        *((kind, GRPOTrainer, GRPOConfig) for kind in REWARDS),
        ("group column", RLOOTrainer, RLOOConfig),
    ],
)
def test_trl_trains_with_our_rewards(tmp_path, kind, trainer_class, config_class):
    columns, make = REWARDS[kind]
    reward = make(make_reward_model())
    tokenizer = make_tokenizer(chat=kind == "conversations")
    trainer = trainer_class(
        model=make_policy(tokenizer),
        reward_funcs=reward,
        args=config_class(
            output_dir=str(tmp_path),
            max_steps=2,
            per_device_train_batch_size=4,
            num_generations=2,
            max_completion_length=4,
            beta=0.0,
            use_cpu=True,
            bf16=False,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_dict(columns),
        processing_class=tokenizer,
    )
    trainer.train()
    assert trainer.state.global_step == 2
    assert reward.num_completions == 8
    for entry in trainer.state.log_history[:2]:
        assert entry[f"rewards/{reward.__name__}/mean"] == pytest.approx(entry["reward"])
        assert 0 <= entry[f"{reward.__name__}/floored"] <= 1


class TableReward(RewardFunction):
    """A reward for each answer."""

    def __init__(self, rewards):
        super().__init__("table", floor=-10.0)
        self.rewards = rewards

    def _scores(self, prompts, completions, columns):
        return [self.rewards.get(text.strip()) for text in completions]


def test_with_log_shares_and_a_uniform_reference_the_policy_becomes_the_group(tmp_path):
    """With two answers to a question, so that an own share in their mean would show."""
    tokenizer = make_tokenizer()
    policy = Policy(make_policy(tokenizer), tokenizer, letter_tokens(tokenizer, "here"))
    uniform = PolicySettings(warm_up_steps=150, warm_up_learning_rate=0.02, warm_up_batch=1)
    warm_up(policy, [QUESTION], uniform, seed=0)
    base = Answering.of(policy, [QUESTION], 1)
    assert base.outside[0] < 0.02
    group = np.array([0.7, 0.2, 0.1])
    rewards = np.log(group)
    expected = optimum(base, [rewards], beta=1.0).shares[0]
    np.testing.assert_allclose(expected, group, atol=0.05)  # the base is about uniform
    reward = TableReward(dict(zip("ABC", rewards, strict=True)))
    settings = GrpoSettings(steps=60, prompts=100, generations=2, learning_rate=0.005, lora_rank=0)
    lines = []
    trained, training = train_grpo(
        policy, [QUESTION], reward, settings, seed=0, directory=tmp_path, tell=lines.append
    )
    found = Answering.of(trained, [QUESTION], 1)
    np.testing.assert_allclose(found.shares[0], expected, atol=0.06)
    # If TRL's beta were not corrected for two answers, this would be the optimum.
    assert abs(optimum(base, [rewards], beta=2.0).shares[0] - group).max() > 0.15
    assert len(lines) == 4 and lines[-1].startswith("  step 60: reward ")
    assert training.completions == 60 * 200
    assert 0 < training.reward_seconds < training.step_seconds
    assert 0 < training.generation_seconds < training.step_seconds
