"""The optional packages that training a language model takes."""

from importlib import import_module

from task.errors import UserError

NEEDED = ("trl", "peft", "accelerate")


def require_trl() -> None:
    """Raise a `UserError` that says what to install, unless TRL, PEFT and Accelerate are here."""
    for name in NEEDED:
        try:
            import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name:
                raise
            raise UserError(
                f"Aligning a language model needs {name}, which is not installed: "
                "pip install 'pluralllm[align]'."
            ) from None
