"""Tiny real `transformers` models with random weights, written into a folder."""

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2Model,
    LlamaConfig,
    LlamaModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaModel,
)

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
WORDS = """
    what is tea coffee good bad yes no maybe or never often ? : . , # below given question
    options choose response instruction input the an in ##s ##ly ##ing
"""
VOCABULARY = {word: i for i, word in enumerate([*SPECIAL, *WORDS.split()])}
SIZES = {"bert": (BertConfig, BertModel), "roberta": (RobertaConfig, RobertaModel)}


def save_encoder(folder, *, kind="bert", seed=0, positions=128):
    """A BERT-like encoder: 2 layers of 32 dimensions and a WordPiece tokenizer."""
    config_class, model_class = SIZES[kind]
    config = config_class(
        vocab_size=len(VOCABULARY),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=positions,
        pad_token_id=0,
    )
    _save(model_class, config, seed, folder)
    limit = positions - 1 if kind == "roberta" else positions  # position 0 is padding's
    _save_tokenizer(folder, pad_token="[PAD]", model_max_length=limit)
    return folder


def save_decoder(folder, *, kind="gpt2", seed=0, padding_side="right"):
    """A GPT-2 or Llama of 2 layers whose tokenizer has no padding token."""
    sizes = {"vocab_size": len(VOCABULARY), "bos_token_id": 2, "eos_token_id": 3}
    if kind == "gpt2":
        config = GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=128, **sizes)
    else:
        config = LlamaConfig(
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=64,
            max_position_embeddings=128,
            **sizes,
        )
    _save(GPT2Model if kind == "gpt2" else LlamaModel, config, seed, folder)
    _save_tokenizer(folder, eos_token="[SEP]", padding_side=padding_side)
    return folder


def _save(model_class, config, seed, folder):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = model_class(config)
        for parameter in model.parameters():  # larger than usual, so that every token tells
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)


def _save_tokenizer(folder, **special):
    tokenizer = Tokenizer(models.WordPiece(VOCABULARY, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", cls_token="[CLS]", **special
    ).save_pretrained(folder)
