"""The list of config fields that --config_help prints, read from the comments of configs/default.py."""

from configs import default
from mfl_jax.runtime import config_fields, config_file


def test_every_field_is_described_once():
    """`sweep` is described as one field."""
    described = [field.name for field in config_fields.read_fields()]
    expected = {name for name in config_file.field_names(default.experiment("any", [])) if not name.startswith("sweep.")}
    assert len(described) == len(set(described)) and set(described) == expected
    assert [field.name for field in config_fields.read_fields() if not field.meaning] == []


def test_comments_beside_and_above_a_field_units_and_sections():
    fields = {field.name: field for field in config_fields.read_fields()}
    assert fields["alpha"] == ("Loss (Eqs. 3, 5, 6).", "alpha", "", "weight of the scene loss")
    assert fields["batch_size"] == ("Training.", "batch_size", "clips", "summed over all devices")
    assert fields["audio.clip_s"][2:] == ("s", "length of a clip")
    assert fields["min_clip_share"].meaning.startswith("Scenes are trained and scored on clips of which this share is audio")
    assert fields["seeds"].section == "Experiments" and fields["name"].section == ""


def test_the_list_has_the_values_of_the_config_and_fits_80_columns():
    text = config_fields.format_fields(config_file.load_config("proposed"))
    assert "  config.eta = 0.5\n      focus of the scene loss; 0 is plain cross-entropy\n" in text
    assert "  config.batch_size = 64 [clips]\n" in text and "config.audio.hop_samples = 882 [samples]" in text
    assert "config.seeds" not in text
    assert "config.seeds = 10" in config_fields.format_fields(config_fields.all_defaults())
    for name in ("proposed", "ablations"):
        listed = config_fields.format_fields(config_file.load_config(name))
        assert max(map(len, listed.splitlines())) <= 80
