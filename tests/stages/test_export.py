"""A final model as a folder that others load, with a card made from the run."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard
from transformers import AutoModelForCausalLM, AutoTokenizer

from stages import export
from stages.core import models
from stages.core import params as parameters
from stages.core.errors import UserError
from stages.core.files import write_json, write_rows
from stages.core.graph import md5
from stages.reporting import card
from tests.conftest import ROOT
from tests.known import SHORT

SCORES = {"base": 0.0, "sft": 0.5, "control": 0.75, "grpo": 0.95, "student": 0.9}
PROOF = {"max_logit_diff": 2e-6, "top1_agreement": 1.0, "greedy_agreement": 1.0}


@pytest.fixture
def evaluated(known_folder, here) -> Path:
    """A project whose grpo model has been evaluated, as far as an export looks at it."""
    shutil.copytree(known_folder / "models/grpo", "models/grpo")
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, name)
    for name, right in SCORES.items():
        scores = {"n": 600, "accuracy": right, "low": right - 0.02, "high": right + 0.01,
                  "stderr": 0.01, "format_compliance_rate": 1.0}  # fmt: skip
        write_json(
            Path(f"metrics/evaluate/{name}.json"), {"parameters": 1000, "arithmetic": scores}
        )
    write_json(Path("metrics/merge.json"), PROOF)
    write_rows(Path("data/test.jsonl"), [{"prompt": [{"role": "user", "content": SHORT}]}])
    return here


def test_an_exported_folder_loads_answers_and_has_a_card_of_the_run(evaluated):
    to = export.export("grpo", Path("exports/grpo"))
    original = models.fingerprint(Path("models/grpo"))
    assert json.loads((to / "export.json").read_text())["sha256"] == original
    tokenizer = AutoTokenizer.from_pretrained(to)
    model = AutoModelForCausalLM.from_pretrained(to)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": SHORT}], add_generation_prompt=True, return_tensors="pt"
    )
    text = tokenizer.decode(model.generate(**prompt, max_new_tokens=40)[0])
    assert "<think>1+1=2</think><answer>2</answer><|im_end|>" in text

    made = ModelCard.load(to / "README.md")
    assert made.data.library_name == "transformers" and made.data.tags == ["grpo", "trl"]
    assert [(r.metric_value, r.dataset_name) for r in made.data.eval_results] == [
        (0.95, "arithmetic")
    ]
    assert "base_model" not in made.data.to_dict() and "license" not in made.data.to_dict()
    assert "| grpo | 1,000 | 0.950 | [0.930, 0.960] |" in made.text and "student" not in made.text
    assert "largest logit difference 2e-06" in made.text
    assert md5(Path("models/grpo")) in made.text and "kl_coef: 0.0" in made.text
    assert "warmed up by SFT (full), then trained by GRPO" in made.text
    assert "| grpo | 24 | 0.001 | 128 |" in made.text
    assert "no licence of others reaches the model" in made.text
    assert f"<|im_start|>user\n{SHORT}<|im_end|>" in made.text


def test_a_students_card_has_its_teachers_base_and_no_merge(evaluated):
    shutil.copytree("models/grpo", "models/student")
    to = export.export("student", Path("out"))
    text = (to / "README.md").read_text()
    assert "teacher's base" in text and "distill:" in text and "## Proof of the merge" not in text


def test_an_edit_of_an_export_never_reaches_the_model(evaluated):
    to = export.export("grpo", Path("exports/grpo"))
    before = models.fingerprint(Path("models/grpo"))
    for file in to.iterdir():
        file.write_bytes(b"edited")
    assert models.fingerprint(Path("models/grpo")) == before


def test_only_an_earlier_export_is_replaced(evaluated):
    (mine := Path("mine")).mkdir()
    (mine / "letter.txt").write_text("dear")
    with pytest.raises(UserError, match="mine is there and no earlier export"):
        export.export("grpo", mine)
    assert (mine / "letter.txt").read_text() == "dear"
    (mine / "letter.txt").unlink()
    first = export.export("grpo", mine)
    (first / "left").write_text("")
    export.export("grpo", mine)
    assert not (mine / "left").exists()


def test_scores_of_another_model_make_no_card(evaluated):
    lock = {"schema": "2.0", "stages": {"evaluate@grpo": {
        "cmd": "python -m stages.evaluate grpo", "deps": [{"path": "models/grpo", "md5": "0.dir"}],
    }}}  # fmt: skip
    Path("dvc.lock").write_text(yaml.safe_dump(lock))
    with pytest.raises(UserError, match="is of another models/grpo than lies there"):
        export.export("grpo", Path("exports/grpo"))
    assert not Path("exports").exists()
    Path("metrics/evaluate/grpo.json").unlink()
    with pytest.raises(UserError, match=r"metrics/evaluate/grpo\.json is missing"):
        export.export("grpo", Path("exports/grpo"))


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json"])
def test_a_model_that_does_not_load_is_not_exported(evaluated, file):
    path = Path("models/grpo", file)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(UserError, match="cannot be loaded"):
        export.export("grpo", Path("exports/grpo"))
    assert list(Path("exports").iterdir()) == []


# --- lineage of names and licences ----------------------------------------------------------------


def params_of(base: str, data: str) -> parameters.Params:
    raw = yaml.safe_load((ROOT / "presets/gsm8k-qwen2.5-0.5b.yaml").read_text())
    raw["base"] |= {"source": base, "watch": base}
    raw["task"] |= {"source": data, "watch": data}
    return parameters.validate(raw, "params.yaml")


def test_licences_are_those_of_the_cards_and_unknown_where_there_is_none(here):
    for name, licence in (("weights", "apache-2.0"), ("rows", "[mit, cc-by-4.0]")):
        Path(name).mkdir()
        Path(name, "README.md").write_text(f"---\nlicense: {licence}\n---\n# {name}\n")
    Path("rows/train.jsonl").write_text("{}\n")
    base, *_, data = card.origins_of("grpo", params_of("./weights", "./rows/train.jsonl"))
    assert (base.licence, base.on_hub) == ("apache-2.0", False)
    assert (data.name, data.licence) == ("train.jsonl", "mit, cc-by-4.0")
    Path("weights/README.md").write_text("---\nlicense: [\n---\n")
    Path("rows/README.md").write_text("no front matter")
    origins = card.origins_of("grpo", params_of("./weights", "./rows/train.jsonl"))
    assert [origin.licence for origin in origins] == ["unknown", "unknown"]
    assert "weights, train.jsonl is not known" in card.licence_note(origins).replace("\\", "")


def test_hub_names_stand_in_the_front_matter(here):
    params = params_of("Qwen/Qwen2.5-0.5B-Instruct", "openai/gsm8k")
    origins = [origin._replace(licence="apache-2.0") for origin in card.origins_of("grpo", params)]
    scores = {"gsm8k": {"accuracy": 0.5, "n": 10}}
    data = yaml.safe_load(card.metadata("grpo", params, origins, scores, ["gsm8k"]))
    assert data["base_model"] == "Qwen/Qwen2.5-0.5B-Instruct" and data["license"] == "apache-2.0"
    assert data["datasets"] == ["openai/gsm8k"]
    assert data["model-index"][0]["name"] == "gsm8k-Qwen2.5-0.5B-Instruct-grpo"
