"""Multiple choice in three published forms.

- AQuA (https://arxiv.org/abs/1705.04146): `question`, `options` ("A)21"), `rationale`, `correct`
- ARC (https://arxiv.org/abs/1803.05457): `question`, `choices` {text, label}, `answerKey`
- LogiQA (https://arxiv.org/abs/2007.08124): `context`, `query` or `question`, `options`, and the
  right one's index from 0 as `correct_option`, or its letter or index as `answer` or `label`
"""

from stages.tasks import rows
from stages.tasks.problem import Problem, maybe, text_of, texts_of, wrong


def aqua(row: dict, place: str) -> Problem:
    options = texts_of(row.get("options"), "options", place)
    question = text_of(row, ("question",), place)
    right = text_of(row, ("correct",), place)
    working = maybe(row, ("rationale",), place)
    return rows.choice(question, options, right, place, working=working)


def arc(row: dict, place: str) -> Problem:
    choices = row.get("choices")
    if not isinstance(choices, dict):
        raise wrong(place, "no choices with text and label (ARC rows have them)")
    labels, texts = (texts_of(choices.get(k), f"choices.{k}", place) for k in ("label", "text"))
    key = text_of(row, ("answerKey",), place)
    if key not in labels:
        raise wrong(place, f"answerKey {key!r} is none of the labels {', '.join(labels)}")
    right = chr(ord("A") + labels.index(key))  # some items count their options 1, 2, 3, 4
    return rows.choice(text_of(row, ("question",), place), texts, right, place)


def logiqa(row: dict, place: str) -> Problem:
    question = text_of(row, ("query", "question"), place)
    if context := maybe(row, ("context",), place):
        question = f"{context}\n{question}"
    right = text_of(row, ("correct_option", "answer", "label"), place)
    options = texts_of(row.get("options"), "options", place)
    return rows.choice(question, options, right, place)
