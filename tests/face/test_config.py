import pytest
import yaml

from lookalike.config import Config, keys
from lookalike.errors import ConfigError
from lookalike.losses import MARGINS
from lookalike.settings import LossName


def test_a_written_config_is_complete_and_loads_to_the_same(tmp_path):
    config = Config.load(None, ["optim.lr=0.5", "data.classes=[a, b]", "model.pretrained=w.pth"])
    file = tmp_path / "config.yaml"
    file.write_text(config.to_yaml())
    assert Config.load(file) == config
    written = {f"{s}.{k}" for s, inner in yaml.safe_load(file.read_text()).items() for k in inner}
    assert written == set(keys())


def test_every_key_says_what_it_does():
    for key, (_, _, text) in keys().items():
        assert len(text) > 10, key


def test_the_losses_of_the_config_are_those_of_the_registry():
    assert set(LossName.__args__) == set(MARGINS)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.lrr=1", "optim.lrr is not a key; did you mean optim.lr?"),
        ("optimm.lr=1", "optimm is not a key; did you mean optim?"),
        ("optim.name=foo", "optim.name='foo' is not one of 'sgd' or 'adamw'"),
        ("train.epochs=0", "train.epochs=0: input should be greater than or equal to 1"),
        ("train.epochs=many", "train.epochs='many': input should be a valid integer"),
        ("optim=3", "optim=3 is a section: write optim.NAME=value"),
        ("model.pooling=gem+foo", "takes gem, avg, max, cls"),
        ("model.pooling=gem+gem", "takes gem, avg, max, cls"),
        ("nonsense", "'nonsense' is neither a YAML file nor key=value"),
        ("data.train=[3", "data.train: '[3' cannot be read as YAML"),
    ],
)
def test_a_wrong_setting_is_one_clear_line(override, message):
    with pytest.raises(ConfigError) as caught:
        Config.load(None, [override])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_all_wrong_settings_are_told_at_once_with_their_file(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("optim: {lrr: 1}\ntrain: {epochs: -1}\n")
    with pytest.raises(ConfigError) as caught:
        Config.load(file)
    lines = str(caught.value).splitlines()
    assert len(lines) == 2
    assert all(line.startswith(f"{file}: ") for line in lines)


@pytest.mark.parametrize("text", ["optim: [", "just text", "\x00", "a: b: c", "- 1\n- 2"])
def test_a_file_that_is_no_config_is_one_clear_line(tmp_path, text):
    file = tmp_path / "c.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        Config.load(file)
    assert str(caught.value).startswith(str(file))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.yaml: no such file"):
        Config.load(tmp_path / "none.yaml")


def test_a_config_is_frozen():
    with pytest.raises(ValueError, match="frozen"):
        Config().optim.lr = 1.0


def test_settings_of_the_python_interface_find_their_keys():
    config = Config().with_settings(
        {"train": "t.txt", "loss": "arcface", "lr": 0.5, "batch_size": 7, "optim__name": "adamw"}
    )
    assert config.data.train == "t.txt"
    assert config.loss.name == "arcface"
    assert (config.optim.lr, config.train.batch_size, config.optim.name) == (0.5, 7, "adamw")
    with pytest.raises(
        ConfigError, match="'name' is ambiguous; say one of loss__name, optim__name"
    ):
        Config().with_settings({"name": "x"})
    with pytest.raises(ConfigError, match="no setting 'epoch'; did you mean epochs"):
        Config().with_settings({"epoch": 3})


def test_scientific_notation_is_a_number_as_people_mean_it(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("optim: {lr: 1e-4, min_lr: 2.5E-7}\n")
    config = Config.load(file, ["optim.weight_decay=5e-5"])
    assert (config.optim.lr, config.optim.min_lr, config.optim.weight_decay) == (1e-4, 2.5e-7, 5e-5)


def test_the_formats_of_the_config_are_those_of_the_registry():
    from lookalike.data import ALIASES, SOURCES
    from lookalike.settings import DataConfig

    formats = DataConfig.model_fields["format"].annotation.__args__
    assert set(formats) == {"auto", *SOURCES}
    for alias, name in ALIASES.items():
        assert Config.load(None, [f"data.format={alias}"]).data.format == name


def test_odd_values_of_a_name_are_told_without_a_traceback():
    for value in ("[a]", "{a: 1}", "3", "null"):
        with pytest.raises(ConfigError, match=r"loss\.name"):
            Config.load(None, [f"loss.name={value}"])


def test_class_names_may_look_like_numbers():
    assert Config.load(None, ["data.classes=[0, 1.5, b]"]).data.classes == ["0", "1.5", "b"]
