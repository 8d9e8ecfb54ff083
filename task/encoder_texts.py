"""The texts that an encoder is given: one for every option of a question."""

from collections.abc import Iterator, Sequence

from task.survey import Question

# The instruction of Alpaca (Taori et al., 2023) around a multiple-choice question, as in the
# paper (arXiv 2503.09925, section 4): instruction, question, all options, and the answer.
ALPACA_PROMPT = (
    "Below is an instruction that describes a task, paired with an input that provides further "
    "context. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\nGiven the question and its options, choose the option you agree with most."
    "\n\n### Input:\n{question}\nOptions: {options}\n\n### Response:\n{option}"
)


def texts_of(questions: Sequence[Question], text_format: str) -> Iterator[str]:
    """Yield the text of every option, question after question.

    Args:
        questions: the questions.
        text_format: `question-option`, or `alpaca`, whose texts list all options of the question.
    """
    for question in questions:
        for option in question.options:
            if text_format == "alpaca":
                yield ALPACA_PROMPT.format(
                    question=question.text, options="; ".join(question.options), option=option
                )
            else:
                yield f"{question.text} {option}"
