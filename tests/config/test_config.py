import pytest
import yaml

from lookalike.config.config import FLAGS, Config, keys, popular_keys
from lookalike.config.sections import HeadConfig, LossName
from lookalike.errors import ConfigError
from lookalike.losses import LOSSES


def test_a_written_config_is_complete_and_loads_to_the_same(tmp_path):
    config = Config.load(None, ["optim.lr=0.5", "data.classes=[a, b]", "model.pretrained=w.pth"])
    file = tmp_path / "config.yaml"
    file.write_text(config.to_yaml())
    assert Config.load(file) == config
    written = {f"{s}.{k}" for s, inner in yaml.safe_load(file.read_text()).items() for k in inner}
    assert written == set(keys())


def test_every_key_is_documented():
    for key, (_, _, text) in keys().items():
        assert len(text) > 10, key


def test_the_losses_of_the_config_are_those_of_the_registry():
    assert set(LossName.__args__) == set(LOSSES)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.lrr=1", "optim.lrr is not a key; did you mean optim.lr?"),
        ("optimm.lr=1", "optimm is not a key; did you mean optim?"),
        ("optim.name=foo", "optim.name='foo' is not one of 'sgd' or 'adamw'"),
        ("train.epochs=0", "train.epochs=0: input should be greater than or equal to 1"),
        ("train.epochs=many", "train.epochs='many': input should be a valid integer"),
        ("optim=3", "optim=3 is a section: write optim.name=value"),
        ("model.pooling=gem+foo", "takes gem, avg, max, cls"),
        ("model.pooling=gem+gem", "takes gem, avg, max, cls"),
        ("nonsense", "'nonsense' is neither a YAML file nor key=value"),
        ("data.train=[3", "data.train: '[3' cannot be read as YAML"),
        ("lr=0.1", "lr is not a key; did you mean optim.lr?"),
        ("learning_rate=0.1", "learning_rate is not a key; did you mean optim.lr?"),
        ("optim.larning_rate=1", "optim.larning_rate is not a key; did you mean optim.lr?"),
        ("optim.x=1", "optim.x is not a key; did you mean optim.lr?"),
        ("model.dim=1", "model.dim is not a key; did you mean model.embedding_dim?"),
        ("optim.learningRate=0.1", "did you mean optim.lr?"),
        ("Initial learning rate=0.1", "did you mean optim.lr?"),
        ("model.arch=vit", "did you mean model.backbone?"),
        ("batch-size=8", "did you mean train.batch_size?"),
        ("num_workers=8", "did you mean data.threads?"),
        ("name=sgd", "did you mean loss.name or optim.name?"),
        ("train.epochs=1:30", "train.epochs='1:30': input should be a valid integer"),
        ("data.train=5", "data.train=5: input should be a valid string or a valid list"),
        ("model.pretrained=[1]", "input should be a valid boolean or a valid string"),
    ],
)
def test_a_wrong_setting_is_one_clear_line(override, message):
    with pytest.raises(ConfigError) as caught:
        Config.load(None, [override])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_all_wrong_settings_are_reported_with_their_lines(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("optim:\n  lrr: 1\ntrain: {epochs: -1}\n")
    with pytest.raises(ConfigError) as caught:
        Config.load(file)
    lines = str(caught.value).splitlines()
    assert [line.partition(": ")[0] for line in lines] == [f"{file}:2", f"{file}:3"]


@pytest.mark.parametrize("text", ["optim: [", "just text", "\x00", "a: b: c", "- 1\n- 2"])
def test_a_file_that_is_no_config_is_one_clear_line(tmp_path, text):
    file = tmp_path / "c.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        Config.load(file)
    assert str(caught.value).startswith(str(file))


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("loss.name=ArcFace", "loss.name", "arcface"),
        ("loss.name=arc_face", "loss.name", "arcface"),
        ("loss.name=ArcFaceLoss", "loss.name", "arcface"),
        ("loss.name=AM-Softmax", "loss.name", "amsoftmax"),
        ("loss.name=Large Margin Softmax", "loss.name", "large_margin_softmax"),
        ("loss.name=model-parallel AM-softmax", "head.parallel", "model"),
        ("model.backbone=ResNet-50", "model.backbone", "resnet50"),
        ("model.backbone=Swin_Transformer-Tiny", "model.backbone", "swint_tiny"),
        ("model.backbone=ViT-B/16", "model.backbone", "vit_base"),
        ("optim.name=AdamW", "optim.name", "adamw"),
        ("optim.schedule=Cosine", "optim.schedule", "cosine"),
        ("data.sampler=Repeat-Factor", "data.sampler", "repeat_factor"),
        ("train.precision=BF16", "train.precision", "bf16"),
        ("train.epochs=010", "train.epochs", 10),
        ("run.output=2026-01-02", "run.output", "2026-01-02"),
        ("data.train={a,b}*.txt", "data.train", "{a,b}*.txt"),
        ("data.train=[a.txt, b.txt]", "data.train", ["a.txt", "b.txt"]),
        ("data.train=[a.txt]", "data.train", "a.txt"),
    ],
)
def test_values_in_the_spellings_people_use(override, key, value):
    config = Config.load(None, [override])
    assert config.get(key) == value
    assert Config.load("c.yaml", content=config.to_yaml().encode()) == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optim:\n  lr: 0.1\n  lr: 0.2\n", ":3: not YAML: the key 'lr' is there twice, first"),
        ("optim: {lr: 1}\nloss: {}\noptim: {}\n", ":3: not YAML: the key 'optim' is there twice"),
        ("optim.lr: 1\noptim:\n  lr: 2\n", ":3: optim.lr is there twice"),
        ("train:\n  epochs: 1:30\n", ":2: train.epochs='1:30'"),
        ("optim:\n\tlr: 1\n", ":2: not YAML: .* indent with spaces"),
        ("optim: *missing\n", ":1: not YAML: found undefined alias 'missing'"),
        ("loss: &a\n  scale: -3\noptim:\n  <<: *a\n", ":2: optim.scale is not a key"),
        ("- optim\n", ":1: holds no sections"),
        ("a: 1\n--- \nb: 1\n", ":2: not YAML: but found another document"),
        ("run:\n  output: a\x07\n", ":2: not YAML: it holds the character U\\+0007"),
        ("[" * 3000, ": not YAML: nested too deeply"),
        ("optim: !!int x\n", ": not YAML: "),
    ],
)  # fmt: skip
def test_a_fault_in_a_file_has_its_line(text, message):
    with pytest.raises(ConfigError, match="c.yaml" + message):
        Config.load("c.yaml", content=text.encode())


def test_empty_sections_and_dotted_keys_in_a_file():
    config = Config.load("c.yaml", content=b"optim:\nhead:\ntrain.epochs: 3\ntrain: {seed: 1}\n")
    assert config.asked() == {"train.epochs", "train.seed"}


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        ("", ["data=5"], "data=5 is a section: write data.train=value"),
        ("model: resnet18\n", ["model.image_size=32"], "c.yaml:1: model='resnet18' is a section"),
        ("", ["optim.lr=1", "optim=sgd"], "optim='sgd' is a section"),
    ],
)
def test_a_value_in_the_place_of_a_section_is_refused_beside_settings_of_it(
    text, overrides, message
):
    with pytest.raises(ConfigError, match=message):
        Config.load("c.yaml", overrides, {"data.train": "a.txt"}, content=text.encode())


def test_a_huge_value_is_cut_in_a_message():
    with pytest.raises(ConfigError) as caught:
        Config.load(None, ["train.epochs=" + "9x" * 10_000])
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(("value", "lines"), [("null", 0), ("0.1", 1)])
def test_the_logit_cache_share_of_earlier_versions_is_ignored(tmp_path, caplog, value, lines):
    file = tmp_path / "old.yaml"
    file.write_text(f"head:\n  centres: 3\n  stash: {value}\n")
    config = Config.load(file).with_values({"train.seed": 1})
    assert config.head == HeadConfig(centres=3)
    assert "head.stash" not in config.asked()
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == lines
    assert all(line.startswith(f"head.stash={value} is ignored") for line in told)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.yaml: no such file"):
        Config.load(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match=r": a folder, where a YAML file is expected; give the"):
        Config.load(tmp_path)


def test_the_resolved_settings_of_a_run_are_no_request(tmp_path):
    """Its margin and scale would stay those of another loss."""
    text = Config.load(None, ["loss.margin=0.4", "loss.scale=30"]).to_yaml()
    (tmp_path / "resolved.yaml").write_text(text)
    with pytest.raises(ConfigError, match=rf"give {tmp_path}/config\.yaml, the settings that were"):
        Config.load(tmp_path / "resolved.yaml", ["loss.name=cosface"])
    (tmp_path / "copy.yaml").write_text(text)
    assert Config.load(tmp_path / "copy.yaml", ["loss.name=cosface"]).loss.margin == 0.4


def test_twenty_settings_are_marked_as_those_that_matter():
    popular = popular_keys()
    assert len(popular) == 20
    assert {*FLAGS.values(), "optim.lr", "train.batch_size"} <= set(popular) <= set(keys())
    lr = Config.model_json_schema()["$defs"]["OptimConfig"]["properties"]["lr"]
    assert lr["popular"] is True


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
        ConfigError, match="'name' is ambiguous; write one of loss__name, optim__name"
    ):
        Config().with_settings({"name": "x"})
    with pytest.raises(ConfigError, match="no setting 'learning_rate'; did you mean lr"):
        Config().with_settings({"learning_rate": 1})
    with pytest.raises(ConfigError, match="no setting 'epoch'; did you mean epochs"):
        Config().with_settings({"epoch": 3})


def test_scientific_notation_is_a_number_as_people_mean_it(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("optim: {lr: 1e-4, min_lr: 2.5E-7}\n")
    config = Config.load(file, ["optim.weight_decay=5e-5"])
    assert (config.optim.lr, config.optim.min_lr, config.optim.weight_decay) == (1e-4, 2.5e-7, 5e-5)


def test_the_formats_of_the_config_are_those_of_the_registry():
    from lookalike.config.sections import DataConfig
    from lookalike.data.readers import FORMAT_ALIASES, READERS

    formats = DataConfig.model_fields["format"].annotation.__args__
    assert set(formats) == {"auto", *READERS}
    for alias, name in FORMAT_ALIASES.items():
        assert Config.load(None, [f"data.format={alias}"]).data.format == name


def test_odd_values_of_a_name_are_config_errors():
    for value in ("[a]", "{a: 1}", "3", "null"):
        with pytest.raises(ConfigError, match=r"loss\.name"):
            Config.load(None, [f"loss.name={value}"])


def test_class_names_may_look_like_numbers():
    assert Config.load(None, ["data.classes=[0, 1.5, b]"]).data.classes == ["0", "1.5", "b"]


@pytest.mark.parametrize("key", ["run.timeout", "train.time_budget"])
@pytest.mark.parametrize("value", [5, 1.5, True, [9], "5"])
def test_a_time_without_its_unit_is_told_how_times_are_written(key, value):
    with pytest.raises(ConfigError, match=f"^{key}=.* is not a time; write e.g. 90s, 30m"):
        Config().with_values({key: value})
