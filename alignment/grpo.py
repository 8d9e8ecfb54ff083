"""Training a policy against a survey reward with TRL's GRPO.

What is optimised. GRPO's advantages are r_i - mean_j(r_j) over the G answers to a question, the own
one among them, whose policy gradient is (1 - 1/G) that of E[r]. TRL's KL term with
`use_bias_correction_kl` has exactly the gradient of beta KL(pi || pi_ref) (without it: that of
KL(pi_ref || pi)). So TRL is given (1 - 1/G) beta, and what is maximised, times 1 - 1/G, is

    E[r] - beta KL(pi || pi_ref)

as long as nothing else rescales it: `scale_rewards="none"`, `loss_type="dr_grpo"` (a sum over
tokens divided by a constant), answers of one token, temperature 1, one step per sampled batch (so
that the ratio is 1 and never clipped), no gradient clipping.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from alignment.config import GrpoSettings
from alignment.policy import Policy
from alignment.prompts import prompt_of
from alignment.scoring import RewardFunction
from task.seeding import derive_seed
from task.survey import Question


@dataclass(frozen=True)
class Training:
    """What training a policy took.

    Attributes:
        step_seconds: of all steps, and of what the reward function did before the first.
        generation_seconds: of them, spent in the policy's `generate`.
        reward_seconds: of them, spent in the reward function.
        completions: answers generated and scored.
        reward: mean reward of each step.
        kl: mean of TRL's estimate of the KL divergence from the base model, of each step.
    """

    step_seconds: float
    generation_seconds: float
    reward_seconds: float
    completions: int
    reward: list[float]
    kl: list[float]

    def to_json(self) -> dict[str, Any]:
        """Return the figures that go into `metrics.json`."""
        return {
            "seconds": self.step_seconds,
            "reward_share_of_step": self.reward_seconds / self.step_seconds,
            "scored_pairs_per_second": self.completions / max(self.reward_seconds, 1e-9),
            "generated_completions_per_second": self.completions
            / max(self.generation_seconds, 1e-9),
            "completions": self.completions,
            "reward": self.reward,
            "kl": self.kl,
        }


def train_grpo(
    policy: Policy,
    questions: Sequence[Question],
    reward: RewardFunction,
    settings: GrpoSettings,
    *,
    seed: int,
    directory: Path,
    tell: Callable[[str], None],
) -> tuple[Policy, Training]:
    """Return the trained policy, and what it took; the given one is changed with it.

    Args:
        policy: the base model, its own reference.
        questions: the prompts.
        reward: scores answers; see `alignment.survey_reward.SurveyReward`. Of this training alone,
            so that the seconds it took are this training's.
        settings: of the training.
        seed: of the order of questions, the sampled answers and the adapter.
        directory: the trainer's folder; nothing is saved there.
        tell: is given a line now and then.
    """
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import PrinterCallback, TrainerCallback
    from trl import GRPOTrainer

    class Clock(TrainerCallback):
        """Sums the seconds of steps."""

        seconds = 0.0
        started = 0.0

        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            """Start the clock."""
            self.started = time.perf_counter()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            """Stop it."""
            self.seconds += time.perf_counter() - self.started

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            """Tell of every fourth of the training."""
            if "reward" in logs and state.global_step % max(1, settings.steps // 4) == 0:
                tell(
                    f"  step {state.global_step}: reward {logs['reward']:.3f}, KL {logs['kl']:.3f}"
                )

    rows = [
        {"prompt": prompt_of(q), "question": q.text, "options": list(q.options)} for q in questions
    ]
    rows *= math.ceil(settings.prompts / len(rows))  # TRL drops batches that are not full
    lora = LoraConfig(
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha,
        lora_dropout=0.0,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    with TemporaryDirectory() as reference:
        if not settings.lora_rank:  # TRL loads the reference anew; with LoRA it is the base
            policy.model.save_pretrained(reference)
            policy.model.config._name_or_path = reference
        trainer = GRPOTrainer(
            model=policy.model,
            reward_funcs=reward,
            args=_trl_config(settings, policy, seed, directory),
            train_dataset=Dataset.from_list(rows),
            processing_class=policy.tokenizer,
            peft_config=lora if settings.lora_rank else None,
        )
    trainer.remove_callback(PrinterCallback)
    clock = Clock()
    trainer.add_callback(clock)
    generate, generation_seconds = _timed(trainer.model.generate)
    trainer.model.generate = generate
    prepared, completions = reward.seconds, reward.num_completions
    trainer.train()
    del trainer.model.generate  # the class's own again
    history = [entry for entry in trainer.state.log_history if "reward" in entry]
    training = Training(
        step_seconds=prepared + clock.seconds,
        generation_seconds=sum(generation_seconds),
        reward_seconds=reward.seconds,
        completions=reward.num_completions - completions,
        reward=[entry["reward"] for entry in history],
        kl=[entry["kl"] for entry in history],
    )
    return Policy(trainer.model, policy.tokenizer, policy.letters_A), training


def _trl_config(settings: GrpoSettings, policy: Policy, seed: int, directory: Path) -> Any:
    from trl import GRPOConfig

    size = settings.prompts * settings.generations
    per_pass = settings.sequences_per_pass or size
    half = str(next(policy.model.parameters()).dtype) == "torch.bfloat16"
    return GRPOConfig(
        output_dir=str(directory),
        seed=derive_seed(seed, "grpo") % 2**32,
        max_steps=settings.steps,
        per_device_train_batch_size=per_pass,
        gradient_accumulation_steps=size // per_pass,
        num_generations=settings.generations,
        max_completion_length=1,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="cosine",
        max_grad_norm=settings.max_gradient_norm,
        beta=settings.beta * (1 - 1 / settings.generations),
        use_bias_correction_kl=True,
        scale_rewards="none",
        loss_type="dr_grpo",
        temperature=1.0,
        num_iterations=1,
        disable_dropout=True,
        gradient_checkpointing=False,
        use_cpu=policy.device.type == "cpu",
        bf16=half,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


def _timed(call: Callable[..., Any]) -> tuple[Callable[..., Any], list[float]]:
    """Return a function that does the same, and the seconds of its calls."""
    seconds: list[float] = []

    def timed(*arguments: Any, **options: Any) -> Any:
        started = time.perf_counter()
        try:
            return call(*arguments, **options)
        finally:
            seconds.append(time.perf_counter() - started)

    return timed, seconds
