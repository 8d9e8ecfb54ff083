"""Aligning a language model with a reward model: rewards for TRL, and `pluralllm align`."""
