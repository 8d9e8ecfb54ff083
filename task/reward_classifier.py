"""One group's reward as a `transformers` model with one label, for trainers that want a module.

The encoder, the predictor and the group's context in one: tokens of prompt and response in, the
response's logit out, differentiable throughout.

Suffixes: B texts, L tokens, d feature dimensions, C options of the context.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification
from transformers.configuration_utils import PretrainedConfig
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.modeling_utils import PreTrainedModel

from task.encoder import TransformersEncoder, mean_pooled
from task.errors import RewardError
from task.predictor import PreferencePredictor
from task.reward import RewardModel


class RewardConfig(PretrainedConfig):  # type: ignore[no-untyped-call]
    """What a `RewardForSequenceClassification` is built from.

    Args:
        encoder: the encoder's own `transformers` config, as a dictionary.
        predictor: arguments of `PreferencePredictor`.
        num_context_options: C.
        group: whose preferences it scores by.
    """

    model_type = "pluralllm-reward"

    def __init__(
        self,
        encoder: dict[str, Any] | None = None,
        predictor: dict[str, Any] | None = None,
        num_context_options: int = 0,
        group: str = "",
        **others: Any,
    ) -> None:
        self.encoder = encoder or {}
        self.predictor = predictor or {}
        self.num_context_options = num_context_options
        self.group = group
        others.setdefault("num_labels", 1)
        super().__init__(**others)


class RewardForSequenceClassification(PreTrainedModel):
    """Scores texts, prompt and response joined by a blank, by one group's preferences.

    A score is the response's own logit (`task.reward.RewardModel.score` without `against`), so
    differences between responses to one prompt are log-odds. Population answers are not mixed in:
    they belong to whole questions.

    Args:
        config: see `RewardConfig`.
    """

    config_class = RewardConfig
    base_model_prefix = "reward"

    context_x_Cd: Tensor
    context_y_C: Tensor

    def __init__(self, config: RewardConfig) -> None:
        super().__init__(config)
        settings = dict(config.encoder)
        self.encoder = AutoModel.from_config(  # type: ignore[no-untyped-call]
            AutoConfig.for_model(**settings)
        )
        self.predictor = PreferencePredictor(**config.predictor)
        dimension = self.predictor.feature_mean.shape[0]
        self.register_buffer("context_x_Cd", torch.zeros(config.num_context_options, dimension))
        self.register_buffer("context_y_C", torch.zeros(config.num_context_options))
        self.post_init()  # type: ignore[no-untyped-call]

    def _init_weights(self, module: torch.nn.Module) -> None:
        """Leave the modules as their own constructors start them."""

    @classmethod
    def of(cls, reward: RewardModel, group: str) -> tuple["RewardForSequenceClassification", Any]:
        """Return the module and its tokenizer for one group of a reward model.

        The tokenizer cuts texts (`truncation=True`) where the reward model's encoder cuts them.

        Raises:
            RewardError: the encoder is no `transformers` model, or its text is not prompt and
                response; the group has no context.
        """
        encoder = reward.cache.encoder
        if not isinstance(encoder, TransformersEncoder):
            raise RewardError(
                "A sequence classifier reads tokens, but the predictor's encoder is 'hashing'. "
                "Train with encoder.name = a transformers model, or use RewardModel.score."
            )
        if encoder.config.text_format != "question-option":
            raise RewardError(
                f"A sequence classifier reads prompt and response, but the predictor's encoder "
                f"reads {encoder.config.text_format!r} texts, which list all options. Train with "
                "encoder.text-format = 'question-option'."
            )
        context = reward.context(group)
        model = AutoModel.from_pretrained(encoder.folder, dtype=torch.float32)
        predictor = reward.predictor
        arguments: dict[str, Any] = dict(
            predictor._hub_mixin_config  # type: ignore[arg-type]  # what it was built with
        )
        tokenizer = encoder.load_tokenizer(model.config)
        config = RewardConfig(
            pad_token_id=tokenizer.pad_token_id,
            encoder=model.config.to_dict(),
            predictor=arguments | {"population_weight": 0.0, "population_size": (0, 0)},
            num_context_options=len(context.shares_C),
            group=group,
        )
        made = cls(config)
        made.encoder.load_state_dict(model.state_dict())
        weights = {
            name: value
            for name, value in predictor.state_dict().items()
            if not name.startswith("population.")
        }
        made.predictor.load_state_dict(weights)
        made.context_x_Cd.copy_(torch.from_numpy(context.features_Cd))
        made.context_y_C.copy_(torch.from_numpy(context.shares_C))
        return made.eval(), tokenizer  # type: ignore[no-untyped-call]

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **_others: Any
    ) -> SequenceClassifierOutput:
        """Return logits (B, 1) of tokenized texts.

        Args:
            input_ids: (B, L) tokens of the encoder's tokenizer.
            attention_mask: (B, L) 1 where there is a token; None: everywhere.
        """
        mask_BL = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        hidden_BLd = self.encoder(input_ids=input_ids, attention_mask=mask_BL).last_hidden_state
        # All texts are targets of one episode: targets do not see each other.
        target_BTd = mean_pooled(hidden_BLd.float(), mask_BL)[None]
        mean_BT, _ = self.predictor(self.context_x_Cd[None], self.context_y_C[None], target_BTd)
        return SequenceClassifierOutput(logits=mean_BT[0][:, None])


AutoConfig.register(RewardConfig.model_type, RewardConfig)
AutoModelForSequenceClassification.register(RewardConfig, RewardForSequenceClassification)
