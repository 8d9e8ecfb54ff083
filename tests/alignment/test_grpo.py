"""TRL's own trainers, really training tiny models against our rewards."""

import pytest
import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from alignment.config import GrpoSettings
from alignment.grpo import train_grpo
from alignment.policy import Policy, letter_tokens
from alignment.rewards import GroupReward, PluralReward
from alignment.scoring import RewardFunction
from alignment.survey_reward import SurveyReward
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
        super().__init__("table", floor=-2.0)
        self.rewards = rewards

    def _scores(self, prompts, completions, columns):
        return [self.rewards.get(text.strip()) for text in completions]


def test_the_optimum_is_the_reference_times_the_exponential_of_the_reward(tmp_path):
    """With four answers to a question, so that an own share in their mean would show."""
    tokenizer = make_tokenizer()
    policy = Policy(make_policy(tokenizer), tokenizer, letter_tokens(tokenizer, "here"))
    reference = policy.next_token_log_probs([QUESTION], 1)[0].double()
    rewards = {"A": 2.0, "B": 1.5, "C": 1.0}
    lines = []
    settings = GrpoSettings(
        steps=50, prompts=40, generations=4, learning_rate=0.03, beta=0.5, lora_rank=0
    )
    trained, training = train_grpo(
        policy,
        [QUESTION],
        TableReward(rewards),
        settings,
        seed=0,
        directory=tmp_path,
        tell=lines.append,
    )
    found = trained.next_token_log_probs([QUESTION], 1)[0].double().exp()
    names = [tokenizer.decode([token]).strip() for token in range(len(reference))]
    reward = torch.tensor([rewards.get(name, -2.0) for name in names], dtype=torch.double)

    def distance(beta):
        return float((found - (reference + reward / beta).softmax(0)).abs().sum() / 2)

    print(
        {beta: distance(beta) for beta in (0.4, 0.5, 0.5 * 4 / 3, 1.0)}, found[policy.letters_A[:4]]
    )
    assert distance(0.5) < 0.08
    assert distance(0.5) < distance(0.5 * 4 / 3) / 2
    assert len(lines) == 4 and lines[-1].startswith("  step 48: reward ")
    assert training.completions == 50 * 160
    assert 0 < training.reward_seconds < training.step_seconds
    assert 0 < training.generation_seconds < training.step_seconds
