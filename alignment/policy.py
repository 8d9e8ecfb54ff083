"""The language model: loaded, or made from a config and taught to answer uniformly at random.

Suffixes: B questions of a batch, L tokens of a prompt, V tokens of the vocabulary, A letters.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from alignment.config import PolicySettings
from alignment.prompts import LETTERS, prompt_of
from task.errors import AlignmentError
from task.seeding import derive_seed
from task.survey import Question

PAD, END = "<pad>", "<end>"
POSITIONS = 2048
"""Longest prompt of a made model, in tokens."""


@dataclass(frozen=True)
class Policy:
    """A language model with its tokenizer.

    Attributes:
        model: the causal language model.
        tokenizer: pads on the left.
        letters_A: token of each answer " A", " B", ...
    """

    model: Any
    tokenizer: PreTrainedTokenizerBase
    letters_A: Tensor

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        device: torch.device = next(self.model.parameters()).device
        return device

    @torch.inference_mode()
    def next_token_log_probs(self, prompts: Sequence[str], batch: int) -> Tensor:
        """Return (prompts, V) float32 log probabilities of the next token, on the CPU.

        Args:
            prompts: texts.
            batch: prompts per forward pass.
        """
        self.model.eval()
        found = [
            next_token_logits(self, prompts[start : start + batch]).log_softmax(-1).cpu()
            for start in range(0, len(prompts), batch)
        ]
        return torch.cat(found)


def next_token_logits(policy: Policy, prompts: Sequence[str]) -> Tensor:
    """Return (B, V) float32 logits of the token after each prompt."""
    inputs = policy.tokenizer(list(prompts), padding=True, return_tensors="pt").to(policy.device)
    mask_BL = inputs["attention_mask"]
    logits_BLV = policy.model(
        input_ids=inputs["input_ids"],
        attention_mask=mask_BL,
        position_ids=(mask_BL.cumsum(1) - 1).clamp(min=0),  # as `generate` counts with padding
        logits_to_keep=1,
    ).logits
    logits_BV: Tensor = logits_BLV[:, -1].float()
    return logits_BV


def make_policy(settings: PolicySettings, questions: Sequence[Question], seed: int) -> Policy:
    """Make a Llama from the settings, with random float32 parameters.

    Args:
        settings: its sizes.
        questions: from whose texts the tokenizer is learnt.
        seed: of the parameters.
    """
    tokenizer = make_tokenizer(questions, settings.vocabulary)
    with torch.random.fork_rng():
        torch.manual_seed(derive_seed(seed, "policy") % 2**32)
        model: Any = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(tokenizer),
                hidden_size=settings.width,
                intermediate_size=4 * settings.width,
                num_hidden_layers=settings.layers,
                num_attention_heads=settings.heads,
                max_position_embeddings=POSITIONS,
                pad_token_id=tokenizer.pad_token_id,
                eos_token_id=tokenizer.eos_token_id,
                bos_token_id=tokenizer.eos_token_id,
            )
        )
    policy = Policy(
        model.to(device_of(settings)), tokenizer, letter_tokens(tokenizer, "the made tokenizer")
    )
    require_room(policy, questions)
    return policy


def make_tokenizer(questions: Sequence[Question], vocabulary: int) -> PreTrainedTokenizerBase:
    """Learn a byte-level BPE tokenizer of so many tokens from questions; letters are one token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    answers = " ".join(f"Answer: {letter}" for letter in LETTERS)
    # Letters as often as questions, so that their merges are among the first.
    texts = [text for question in questions for text in (prompt_of(question), answers)]
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=[PAD, END],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    made: PreTrainedTokenizerBase = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        padding_side="left",
        model_input_names=["input_ids", "attention_mask"],
        model_max_length=POSITIONS,
    )
    return made


def load_policy(source: str, settings: PolicySettings) -> Policy:
    """Load a causal language model.

    Args:
        source: a local folder or a hub id.
        settings: device and dtype.

    Raises:
        AlignmentError: it cannot be loaded, or its tokenizer has no single token for a letter.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, padding_side="left")
        model: Any = AutoModelForCausalLM.from_pretrained(
            source, dtype=getattr(torch, settings.dtype)
        )
    except (OSError, ValueError) as error:
        raise AlignmentError(
            f"policy.path = {source!r}: no causal language model can be loaded "
            f"({str(error).splitlines()[0]}). Expected a local folder that holds one with its "
            "tokenizer, or a hub id."
        ) from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return Policy(
        model.to(device_of(settings)),
        tokenizer,
        letter_tokens(tokenizer, f"policy.path = {source!r}"),
    )


def letter_tokens(tokenizer: PreTrainedTokenizerBase, where: str) -> Tensor:
    """Return (A,) the token of each letter after "Answer:".

    Raises:
        AlignmentError: a letter is not one token of its own there.
    """
    start = tokenizer("Answer:")["input_ids"]
    tokens = []
    for letter in LETTERS:
        ids = tokenizer(f"Answer: {letter}")["input_ids"]
        if ids[:-1] != start or ids[-1] in tokens:
            raise AlignmentError(
                f"{where}: ' {letter}' after 'Answer:' is not one token of its own (got {ids} "
                f"after {start}). Answers are read from one token's probabilities: use a tokenizer "
                "with such tokens, one that adds nothing at the end of a text."
            )
        tokens.append(ids[-1])
    return torch.tensor(tokens)


def require_room(policy: Policy, questions: Sequence[Question]) -> None:
    """Raise an `AlignmentError` unless every prompt and its answer fit into the model."""
    most = getattr(policy.model.config.get_text_config(), "max_position_embeddings", None)
    if most is None:
        return
    prompts = [prompt_of(question) for question in questions]
    lengths = [len(ids) for ids in policy.tokenizer(prompts)["input_ids"]]
    longest = max(lengths)
    if longest >= most:
        text = questions[lengths.index(longest)].text
        raise AlignmentError(
            f"The question {text[:80]!r} is a prompt of {longest} tokens, and the policy takes "
            f"{most - 1}. Leave it out of the survey, or use a policy with a longer context."
        )


def device_of(settings: PolicySettings) -> torch.device:
    """Return the device that the settings name."""
    if settings.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(settings.device)
