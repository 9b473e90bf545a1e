"""export: a final model as a folder that others load as it is, with a card. A command, no stage.

usage: python -m stages.export grpo
       python -m stages.export student --output-dir exports/my-student

The card holds results, which exist only after the evaluation of the model; a card within models/
would change what was evaluated. The files are copies: DVC's cache holds hard links of its own.
"""

import argparse
import shutil
import sys
from pathlib import Path

from stages import report, tasks
from stages.core import models
from stages.core import params as parameters
from stages.core.errors import UserError
from stages.core.files import full_disk_said, read_rows, replacing, write_json, write_text
from stages.core.params import Params
from stages.core.stage import set_environment
from stages.reporting import card, lineage
from stages.reporting.scores import MODELS

RECORD = "export.json"  # the files' hashes; only a folder that holds one is ever replaced


def main() -> None:
    asked = arguments()
    set_environment()
    try:
        with full_disk_said():
            to = export(asked.model, asked.output_dir or Path("exports", asked.model))
    except UserError as error:
        sys.exit(f"export: {error}")
    print(f"{to}: model, tokenizer, chat template and card (README.md); it loads and answers")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m stages.export", description="A final model as a folder, with its card."
    )
    parser.add_argument("model", choices=card.MODELS)
    parser.add_argument("--output-dir", type=Path, help="default: exports/MODEL")
    return parser.parse_args()


def export(model: str, to: Path) -> Path:
    """Writes the folder, once it has been seen to load.

    Raises:
        UserError: a model, its scores or its lineage is not there, the scores are another
            model's, or what lies at `to` is no earlier export.
    """
    params = parameters.load()
    folder = Path("models", model)
    models.check_folder(folder)
    require_free(to)
    require_scores_of_this_model(model)
    with replacing(to) as beside:
        beside.mkdir()
        for file in sorted(path for path in folder.iterdir() if path.is_file()):
            shutil.copyfile(file, beside / file.name)
        prompt = loaded(beside, params)
        found = {name: report.evaluated(name, f"evaluate@{name}") for name in shown(model)}
        merge = report.metrics("merge")
        write_text(beside / "README.md", card.card(model, params, found, merge, prompt))
        write_json(beside / RECORD, {"model": model, "sha256": models.fingerprint(beside)})
    return to


def shown(model: str) -> list[str]:
    """The models whose scores stand on the card: all up to this one."""
    names = list(MODELS)
    return names[: names.index(model) + 1]


def require_free(to: Path) -> None:
    if to.exists() and not (to / RECORD).is_file() and not (to.is_dir() and not any(to.iterdir())):
        raise UserError(f"{to} is there and no earlier export: name another --output-dir")


def require_scores_of_this_model(model: str) -> None:
    """dvc.lock says which model the scores are of; without an entry the card says so."""
    name, folder = f"evaluate@{model}", f"models/{model}"
    report.metrics(f"evaluate/{model}")
    source = lineage.read([name])
    if name in source.locked and folder in lineage.differences(source.nodes[name], source):
        raise UserError(
            f"metrics/evaluate/{model}.json is of another {folder} than lies there: run "
            f"`dvc repro {name}`"
        )


def loaded(folder: Path, params: Params) -> str:
    """A prompt as the folder's own chat template renders it, once the folder's model answered it.

    Raises:
        UserError: it does not load, converse or stop as it should.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with models.reachable(folder):
        model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()
        tokenizer = AutoTokenizer.from_pretrained(folder)
    if not tokenizer.chat_template:
        raise UserError(f"{folder} has no chat template: make the model again (`dvc repro`)")
    row = next(read_rows(Path(f"data/{params.evaluate.split}.jsonl")), None)
    messages = row["prompt"] if row else tasks.prompt("1+1?", params.format)
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    encoded = tokenizer(prompt, return_tensors="pt", add_special_tokens=False,
                        return_token_type_ids=False)  # fmt: skip
    with torch.inference_mode():
        model.generate(**encoded, max_new_tokens=8, do_sample=False)
    ends = model.generation_config.eos_token_id
    if tokenizer.eos_token_id not in (ends if isinstance(ends, list) else [ends]):
        print(f"export: a server would not stop at {tokenizer.eos_token}: generation_config.json "
              f"names {ends} as the end, the tokenizer {tokenizer.eos_token_id}",
              file=sys.stderr)  # fmt: skip
    return prompt


if __name__ == "__main__":
    main()
