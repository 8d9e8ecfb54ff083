"""A tiny reward model, and tiny language models that TRL's trainers really train."""

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from alignment.prompts import LETTERS
from task.config import EncoderConfig
from task.encoder import saved_settings
from task.reward import RewardModel
from tests.task.examples import make_predictor, make_survey

GROUPS = {"Brazil": 12, "Japan": 12, "Kenya": 12}
DIMENSION = 16
CHAT = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


def make_reward_model(seed=0):
    """A predictor with random parameters that knows three groups' answers."""
    encoder = EncoderConfig(dimension=DIMENSION)
    predictor = make_predictor(DIMENSION, seed=seed, encoder=saved_settings(encoder))
    survey = make_survey(GROUPS, num_questions=15)
    return RewardModel(predictor, dict.fromkeys(GROUPS, survey), encoder=encoder)


def make_tokenizer(chat=False):
    """A tokenizer of bytes, and of letters after a space; it adds nothing to a text."""
    letters = [f"Ġ{letter}" for letter in LETTERS]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {
        token: index for index, token in enumerate(["<pad>", "<eos>", *alphabet, *letters])
    }
    merges = [("Ġ", letter) for letter in LETTERS]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", padding_side="left"
    )
    if chat:
        made.chat_template = CHAT
    return made


def make_policy(tokenizer, seed=0, width=16):
    """A Llama of one layer."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(tokenizer),
                hidden_size=width,
                intermediate_size=2 * width,
                num_hidden_layers=1,
                num_attention_heads=2,
                max_position_embeddings=512,
                pad_token_id=tokenizer.pad_token_id,
                eos_token_id=tokenizer.eos_token_id,
                bos_token_id=tokenizer.eos_token_id,
            )
        )
