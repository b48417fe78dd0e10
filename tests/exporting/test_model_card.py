"""The model card: scores of the right checkpoint, limits and licence."""

import dataclasses
import json
import re

import ml_collections
import pytest

import mfl_jax
from mfl_jax.errors import InputError
from mfl_jax.exporting import description, model_card
from mfl_jax.inference import postprocessing
from support.random_model import random_model

pytestmark = pytest.mark.lightly_optimised


def test_card_shows_the_scores_of_its_checkpoint(evaluated_run, tmp_path):
    model = mfl_jax.load(evaluated_run)
    results = json.loads((evaluated_run / "results.json").read_text())
    assert model_card.read_results(model) == results
    card = model_card.build_model_card(model, results, "onnx")
    assert f"| **event: this model** | {results['event']['micro_f']:.2f} | {results['event']['macro_f']:.2f} |" in card
    floor = results["floors"]["scene"]["majority"]
    assert f"| scene: always the most frequent scene | {floor['micro_f']:.2f} | {floor['macro_f']:.2f} |" in card
    assert results["fingerprint"] in card and "annotated_audio/small" in card and "| epochs of the config, seed | 15, 0 |" in card
    assert max(map(len, re.findall(r"^#.*$", card, re.MULTILINE))) < 60 and "\n\n## Licence\n\n" in card
    assert "Measured on 12 clips of the evaluation split of `annotated_audio/small`, in percent" in card
    fewer = model_card.build_model_card(model, {**results, "scene_clips": 8, "event_clips": 9}, "onnx")
    scenes = "(scenes: 8 of them; the others are too short or not annotated)"
    assert f"`annotated_audio/small` {scenes} (events: 9 of them; the others are not annotated), in percent" in fewer
    unscored = model_card.build_model_card(model, None, "onnx")
    assert "This checkpoint was not scored." in unscored and "this model**" not in unscored


@pytest.mark.parametrize(
    ("results", "expected"),
    [(None, None), ({"checkpoint": {"which": "last", "step": 0}}, None), ({"checkpoint": {"which": "best", "step": 7}}, None)],
)
def test_scores_of_another_checkpoint_are_ignored(results, expected, tmp_path):
    model = dataclasses.replace(random_model(), directory=tmp_path, step=7)
    if results is not None:
        (tmp_path / "results.json").write_text(json.dumps(results))
    assert model_card.read_results(model) is expected


@pytest.mark.parametrize("text", ["{", "[]", '{"checkpoint": 3}', "{}"])
def test_invalid_results_are_refused(text, tmp_path):
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(InputError, match=r"results\.json: not the results of a run"):
        model_card.read_results(dataclasses.replace(random_model(), directory=tmp_path))


@pytest.mark.parametrize(
    ("dataset", "text"),
    [
        ("tut_scenes_events/full", "non-commercial scientific use"),
        ("soundscapes/quick", "synthesised by mfl_jax"),
        ("annotated_audio/mine", "provided by the person who trained"),
    ],
)
def test_licence_follows_the_data(dataset, text):
    card = model_card._format_limits(random_model(dataset=dataset), "onnx")
    assert text in card and "Check the licence of the data" in card
    assert sum(licence in card for licence in model_card.LICENCES.values()) == 1


@pytest.mark.parametrize("form", ["onnx", "stablehlo"])
def test_card_mentions_lower_precision_in_training(form):
    limits = model_card._format_limits(random_model(compute="bfloat16"), form)
    assert ("bfloat16" in limits) == (form == "onnx")


def test_card_and_model_json_hold_the_rules_of_the_run(tmp_path):
    model = dataclasses.replace(random_model(), directory=tmp_path)
    assert model_card._format_rules(model) == [] and description.describe_model(model, "stablehlo")["rules"] == {}
    label = model.events[0]
    rules = {label: postprocessing.Rule(threshold=0.125, max_gap_s=0.4)}
    (tmp_path / postprocessing.RULES_FILE).write_text(postprocessing.rules_to_json(rules))
    (section,) = model_card._format_rules(model)
    assert f"| {label} | 0.125 |  |  | 0.4 s |  |" in section
    stored = description.describe_model(model, "stablehlo")["rules"]
    assert list(stored) == list(model.events) and stored[label] == dataclasses.asdict(rules[label])


def test_card_names_what_the_paper_does_not_have():
    options = {
        "augmentations": {"time_mask": 50.0, "gain": 0.0}, "learning_rate_decay": "cosine",
        "weight_decay": 0.5, "ema_decay": 0.99,
    }  # fmt: skip
    model = random_model()
    config = ml_collections.ConfigDict(model.config.to_dict() | options)
    card = model_card._format_training(dataclasses.replace(model, config=config))
    assert (
        "| options that the paper does not have | weight_decay 0.5, time_mask 50, cosine decay |" in card
        and "averaged over steps (decay 0.99)" in card
    )
    assert "| options that the paper does not have | none |" in model_card._format_training(random_model())
