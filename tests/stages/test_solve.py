"""`python -m stages.solve`, as a person or a pipe uses it, on a model that knows two answers."""

import contextlib
import io
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.decoders import Metaspace
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from stages import solve
from stages.answers.equality import equal
from stages.core import models
from stages.core import params as parameters
from stages.core.errors import UserError
from tests.conftest import ROOT, merged
from tests.known import KNOWN, LONG, SHORT


def command(*arguments: str) -> dict:
    return {
        "args": [sys.executable, "-m", "stages.solve", *arguments],
        "env": {**os.environ, "PYTHONPATH": str(ROOT)},
    }


def run(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess:
    return subprocess.run(**command(*arguments), input=stdin, capture_output=True, text=True)


def called(*arguments: str) -> str:
    """stdout of the command without a new process; where it ends in a UserError, that is raised."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        solve.solve(solve.parser().parse_args(arguments))
    return out.getvalue()


def objects(*arguments: str) -> list[dict]:
    return [json.loads(line) for line in called("--json", *arguments).splitlines()]


def jsonl(path: Path, *rows: dict) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def without_cache(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if ".cache" not in p.parts)


def test_a_question_is_answered_as_it_is_written_then_its_answer(knowing):
    files = without_cache(knowing)
    done = run(LONG)
    completion, answer = KNOWN[LONG]
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{completion}\nanswer: {answer}\n"
    assert without_cache(knowing) == files  # no log, no run


def test_a_pipe_of_rows_becomes_a_pipe_of_json_and_nothing_else(knowing):
    rows = [
        {"problem": LONG, "answer": 8},
        {"question": SHORT, "answer": "one and one\n#### 3"},
        {"question": SHORT},
    ]
    done = run("--file", "-", "--json", stdin="\n".join(map(json.dumps, rows)))
    assert (done.returncode, done.stderr) == (0, "")
    right, wrong, unknown = map(json.loads, done.stdout.splitlines())
    assert right == {
        "question": LONG,
        "completion": KNOWN[LONG][0],
        "answer": "8",
        "cut_off": False,
        "gold": "8",
        "correct": True,
    }
    assert (wrong["gold"], wrong["correct"]) == ("3", False)
    assert unknown == {
        "question": SHORT,
        "completion": KNOWN[SHORT][0],
        "answer": "2",
        "cut_off": False,
    }


def test_ctrl_c_is_quiet(knowing):
    rows = "\n".join([SHORT] * 3000)
    process = subprocess.Popen(
        **command("--file", "-", "--json"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # a shell's background job would have it ignored
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    process.stdin.write(rows)
    process.stdin.close()
    assert json.loads(process.stdout.readline())["answer"] == "2"
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=120) == 130
    assert process.stderr.read() == ""
    assert len(process.stdout.readlines()) < 2999


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--model", "student", "x"], "models/student is missing: run the stage that makes it"),
        (["--model", "gpro", "x"], "--model gpro: neither base, sft, grpo or student, nor"),
        (["--file", "nowhere.txt"], "nowhere.txt cannot be read (No such file or directory)"),
    ],
)
def test_mistakes_are_one_line(knowing, arguments, says):
    done = run(*arguments)
    assert done.returncode == 1 and done.stdout == ""
    [line] = done.stderr.splitlines()
    assert line.startswith("solve: ") and says in line


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([" "], "the question is empty"),
        (["\udcff"], "the question is no UTF-8 text"),
        ([SHORT * 200], r"the question is too long: \d+ tokens .* has 2048 positions; shorten it"),
        ([SHORT, "--max-tokens", "2048"], "up to 2048 new ones, .* lower --max-tokens"),
        ([SHORT, "--max-tokens", "0"], "--max-tokens are 1 or more"),
        ([SHORT, "--samples", "0"], "--samples and --max-tokens are 1 or more"),
        ([SHORT, "--seed", "-1"], "--seed is from 0"),
        ([SHORT, "--temperature", "-1"], "--temperature is 0"),
        ([SHORT, "--temperature", "nan"], "--temperature is 0"),
        ([SHORT, "--temperature", "1e-40"], "--temperature is 0"),
        ([SHORT, "--samples", "4"], "give --temperature with --samples"),
        ([SHORT, "--majority"], "give --samples 2 or more"),
        (["--file", "."], "cannot be read"),
    ],
)
def test_what_cannot_be_done_is_said(knowing, arguments, says):
    with pytest.raises(UserError, match=says):
        called(*arguments)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.txt", b"\n \n", "a.txt has no problems"),
        ("a.txt", b"caf\xe9", "a.txt is no UTF-8 text"),
        ("a.jsonl", b"What is 1+1?", "a.jsonl, line 1: not JSON"),
        ("a.txt", b'\n{"question": "1+1?"}\n{', "a.txt, line 3: not JSON"),
        ("a.jsonl", b'["1+1?"]', 'line 1: a row is an object with a "question" or a "problem"'),
        ("a.jsonl", b'{"question": 5}', 'an object with a "question" or a "problem"'),
        ("a.jsonl", b'{"question": ""}', "a.jsonl, line 1 is empty"),
        ("a.jsonl", b'{"question": "\\ud800"}', "line 1 is no UTF-8 text"),
        ("a.jsonl", b'{"question": "a", "answer": ["5"]}', '"answer" is a text or a number'),
    ],
)
def test_a_bad_file_is_refused_by_its_line(tmp_path, name, content, says):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=says):
        solve.many(str(tmp_path / name))


def test_texts_and_rows_are_told_apart(tmp_path):
    file = tmp_path / "problems"
    file.write_bytes(b"\xef\xbb\xbfOne?\r\n\n{1, 2} has how many subsets?\r\n")
    assert [p.question for p in solve.many(str(file))] == ["One?", "{1, 2} has how many subsets?"]
    file.write_text('{"problem": " One? ", "answer": 0.5, "gold": null}\n{"question": "Two?"}')
    assert solve.many(str(file)) == [
        solve.Asked("One?", None, f"{file}, line 1"),
        solve.Asked("Two?", None, f"{file}, line 2"),
    ]


def test_batches_and_padding_change_no_greedy_answer(knowing, tmp_path):
    rows = [{"question": q, "answer": KNOWN[q][1]} for q in (SHORT, LONG, SHORT, SHORT, LONG)]
    file = jsonl(tmp_path / "rows.jsonl", *rows)  # batches of 3, then of 2; two lengths
    assert [o["completion"] for o in objects("--file", file)] == [
        KNOWN[row["question"]][0] for row in rows
    ]
    told = called("--file", file)
    assert told.endswith("answer: 2 (correct)\n\n5 of 5 correct\n".replace("2 (", "8 ("))
    assert told.startswith(f"Problem: {SHORT}\n{KNOWN[SHORT][0]}\nanswer: 2 (correct)\n\nProblem: ")


def test_samples_vote_and_a_seed_repeats_them(knowing, tmp_path):
    file = jsonl(tmp_path / "rows.jsonl", {"question": LONG, "answer": "8"})
    options = ("--file", file, "--temperature", "2.5", "--samples", "7")
    [voted] = objects(*options, "--majority")
    assert len(voted["completions"]) == len(voted["answers"]) == len(voted["cut_off"]) == 7
    assert len(set(voted["completions"])) > 1
    ranked = [(vote["answer"], vote["votes"]) for vote in voted["votes"]]
    assert ranked == solve.votes(voted["answers"])
    assert voted["answer"] == ranked[0][0]
    assert voted["correct"] is equal("8", voted["answer"])
    [plain] = objects(*options)
    assert plain["completions"] == voted["completions"]
    assert plain["correct"] == [equal("8", answer) for answer in plain["answers"]]
    assert "answer" not in plain and "votes" not in plain
    [other] = objects(*options, "--seed", "1")
    assert other["completions"] != plain["completions"]


def test_each_problem_gets_its_own_samples(knowing, tmp_path):
    rows = [{"question": q, "answer": KNOWN[q][1]} for q in (SHORT, LONG)]
    file = jsonl(tmp_path / "rows.jsonl", *rows)  # near temperature 0 all samples are the same
    for row, solved in zip(
        rows, objects("--file", file, "--temperature", "0.001", "--samples", "4"), strict=True
    ):
        assert solved["completions"] == [KNOWN[row["question"]][0]] * 4
        assert solved["correct"] == [True] * 4


def test_a_cut_off_completion_is_named(knowing):
    [cut] = objects(SHORT, "--max-tokens", "3")
    assert cut["cut_off"] and cut["answer"] is None
    assert KNOWN[SHORT][0].startswith(cut["completion"]) and cut["completion"]
    assert called(SHORT, "--max-tokens", "3").endswith(
        "\nanswer: none (cut off; a higher --max-tokens lets it go on)\n"
    )


def test_a_vote_and_samples_as_people_read_them():
    solved = {
        "question": "q",
        "completions": ["a\x1b[2J", "b"],
        "answers": ["5", None],
        "cut_off": [False, True],
        "gold": "6",
    }
    assert solve.told({**solved, "correct": [False, False]}, False, False) == (
        "[1] a\\u001b[2J\nanswer: 5 (wrong, right is 6)\n"
        "[2] b\nanswer: none (cut off; a higher --max-tokens lets it go on; wrong, right is 6)"
    )
    vote = {"answer": "5", "votes": [{"answer": "5", "votes": 1}, {"answer": None, "votes": 1}]}
    assert solve.told({**solved, **vote, "correct": False}, False, False) == (
        "answer: 5 (wrong, right is 6)\nvotes: 1 for 5, 1 for none"
    )


def test_what_streams_is_the_whole_completion(knowing, capsys):
    """Whatever the tokens: characters of several bytes, halves of them, control characters."""
    tokenizer = models.load_tokenizer(Path("models/grpo"))
    sequences = [tokenizer("½ of 3€ is 1.5 👍🏽 ok\n <think>2")["input_ids"]]
    sequences += [random.Random(i).choices(range(3, len(tokenizer)), k=40) for i in range(50)]
    assert len(sequences[0]) > 20
    for ids in sequences:
        streamer = solve.to_terminal(tokenizer)
        streamer.put(torch.tensor([[1, 2, 3]]))  # the prompt
        for token in ids:
            streamer.put(torch.tensor([token]))
        streamer.end()
        assert capsys.readouterr().out == solve.visible(tokenizer.decode(ids)) + "\n"


def test_a_space_that_a_token_alone_would_lose_is_shown(capsys):
    vocabulary = {"\u2581five": 0, "\u2581coins": 1, "s": 2}  # as sentencepiece has them
    words = Tokenizer(WordLevel(vocabulary, unk_token="s"))
    words.decoder = Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words)
    streamer = solve.to_terminal(tokenizer)
    for tokens in ([[0]], [0], [1], [2]):
        streamer.put(torch.tensor(tokens))
    streamer.end()
    assert capsys.readouterr().out == "five coinss\n"


def test_each_token_is_shown_when_it_comes(knowing, capsys):
    tokenizer = models.load_tokenizer(Path("models/grpo"))
    streamer = solve.to_terminal(tokenizer)
    streamer.put(torch.tensor([[1]]))
    shown = []
    for token in tokenizer("<think>5+3=8")["input_ids"]:
        streamer.put(torch.tensor([token]))
        shown.append(capsys.readouterr().out)
    assert shown == ["<think>", "5", "+", "3", "=", "8"]


def test_the_prompt_is_that_of_the_prepared_rows(knowing, raw):
    with_system = merged(raw, {"format": {"system": "Answer in {answer_open}."}})
    params = parameters.validate(with_system, "params.yaml")
    tokenizer = models.load_tokenizer(Path("models/grpo"))
    one = solve.ask(" 1+1? ", None, "here")
    assert solve.prompt(one, tokenizer, params) == (
        "<|im_start|>system\nAnswer in <answer>.<|im_end|>\n"
        "<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n"
    )


SPELLINGS = ("{}", "{}.0", "x = {}", "${}$", "{}/1")
answers = st.one_of(st.none(), st.tuples(st.integers(0, 4), st.sampled_from(SPELLINGS)))


@given(st.lists(answers, min_size=1, max_size=12), st.randoms())
def test_votes_count_values_not_spellings(drawn, shuffler):
    texts = [None if one is None else one[1].format(one[0]) for one in drawn]
    values = [one[0] for one in drawn if one is not None]
    ranked = solve.votes(texts)
    assert sum(count for _, count in ranked) == len(texts)
    said = [(answer, count) for answer, count in ranked if answer is not None]
    assert all(answer in texts for answer, _ in said)
    assert [count for _, count in said] == sorted((count for _, count in said), reverse=True)
    for value in set(values):
        assert [count for a, count in said if equal(str(value), a)] == [values.count(value)]
    assert (ranked[0][0] is None) is (not values)
    assert (None, texts.count(None)) in ranked or None not in texts

    shuffler.shuffle(texts)
    assert sorted(count for _, count in solve.votes(texts)) == sorted(c for _, c in ranked)


def test_an_answer_joins_only_those_it_equals_all():
    assert solve.votes(["12", "12 cm", "12 kg", "12 kg"]) == [("12", 2), ("12 kg", 2)]
    assert solve.votes(["7", "6.0", "6", "6"]) == [("6", 3), ("7", 1)]
    assert solve.votes(["", None]) == [(None, 2)]
    assert solve.votes(["y" * 2000] * 2 + ["5"]) == [("y" * 2000, 2), ("5", 1)]


CODE = {"tests": ["assert f(1) == 2"]}


@pytest.mark.parametrize(
    ("row", "answers", "correct", "voted"),
    [
        ({"gold": "(25-18)+15", "numbers": [18, 25, 15]}, ["22", "22", "25-18+15"],
         [False, False, True], ("22", False)),
        ({"answer": "Zurich", "aliases": []}, ["Zürich", "Bern", "the Zurich"],
         [True, False, True], ("Zürich", True)),
        ({"gold": "B", "options": ["21", "22"]}, ["22", "A", "B) 22"],
         [True, False, True], ("22", True)),
        ({"gold": 0.5, "percent": "value"}, ["50", "50%", "0.5"],
         [False, True, True], ("50%", True)),
        (CODE, ["f = lambda x: x", "def f(x): return 2", "def f(x): return 2"],
         [False, True, True], ("def f(x): return 2", True)),
        ({}, ["1", "2"], None, ("1", None)),
    ],
)  # fmt: skip
def test_answers_are_judged_and_vote_as_in_training(
    knowing, tmp_path, row, answers, correct, voted
):
    [one] = solve.many(jsonl(tmp_path / "rows.jsonl", {"question": "Q?", **row}))
    params = parameters.load()
    samples = [(params.format.tags.render(answer), False) for answer in answers]
    assert solve.result(one, samples, False, params).get("correct") == correct
    chosen = solve.result(one, samples, True, params)
    assert (chosen["answer"], chosen.get("correct")) == voted


def test_percent_is_the_tasks_where_the_row_does_not_say(knowing, raw):
    params = parameters.validate(merged(raw, {"task": {"percent": "value"}}), "params.yaml")
    sample = [(params.format.tags.render("50%"), False)]
    assert solve.result(solve.ask("Q?", "0.5", "here"), sample, False, params)["correct"]


def test_code_that_no_sandbox_could_run_is_neither_right_nor_wrong():
    solved = {"question": "Q?", "answer": "f", "completion": "c", "cut_off": False}
    assert solve.told({**solved, "correct": None}, False, False) == "c\nanswer: f"
    assert solve.told({**solved, "correct": False}, False, False) == "c\nanswer: f (wrong)"
    no_solution = {**solved, "correct": False, "gold": ""}
    assert solve.told(no_solution, False, False) == "c\nanswer: f (wrong)"


@pytest.mark.parametrize(
    "column",
    [{"numbers": 5}, {"numbers": ["5"]}, {"options": 7}, {"aliases": "Turicum"},
     {"percent": "valu"}, {"tests": [1]}],
)  # fmt: skip
def test_a_column_of_the_wrong_type_is_named(tmp_path, column):
    [name] = column
    with pytest.raises(UserError, match=f'line 1: "{name}" is .*: mend it, or take it out'):
        solve.many(jsonl(tmp_path / "rows.jsonl", {"question": "Q?", **column}))
