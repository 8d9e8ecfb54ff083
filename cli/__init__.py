"""The `pluralllm` command: combines the parts; nothing imports it."""
