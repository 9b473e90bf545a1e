"""Tasks: a data set, its prompt and its gold. The grader is stages/answers/grade.py for all."""

from stages.core.params import OutputFormat, Params
from stages.tasks import arithmetic, gsm8k
from stages.tasks.problem import Problem

LOADERS = {"arithmetic": arithmetic.load, "gsm8k": gsm8k.load}


def load(params: Params) -> tuple[list[Problem], list[Problem]]:
    """Training and held-out problems of the configured task."""
    return LOADERS[params.task.name](params.task, params.seed)


def prompt(question: str, fmt: OutputFormat) -> list[dict[str, str]]:
    """The chat messages that put a question: the only place where a prompt is made."""
    system = fmt.system
    for tag in ("think_open", "think_close", "answer_open", "answer_close"):
        system = system.replace("{" + tag + "}", getattr(fmt, tag))
    messages = [{"role": "system", "content": system}] if system else []
    return [*messages, {"role": "user", "content": question}]
