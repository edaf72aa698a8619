import re
import shutil
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from gibbsnet import config
from gibbsnet.chain import Chain
from gibbsnet.config import ConfigError, conf_folder, differences, experiments, folder, leaves, load, read, write


def test_plain_values_only_and_every_reference_resolved():
    loaded = load([])
    assert yaml.safe_load(yaml.safe_dump(loaded)) == loaded
    assert "${" not in yaml.safe_dump(loaded)
    assert loaded["graph"]["z"]["shape"] == loaded["size"]["z"]


@pytest.fixture
def small(tmp_path):
    """A folder of configurations with little in it."""
    for group in config.GROUPS:
        (tmp_path / "conf" / group).mkdir(parents=True)
    root = {
        "defaults": dict(model="m", data="d", network=None, trainer="t", mode=None, experiment="e"),
        **dict(steps=1, seed=1, run=None, evaluation={"samples": 10}, every=dict(log=1, validate=1, checkpoint=1)),
        **dict(data={"batch_size": 2}, trainer={"devices": 1}),
    }
    files = {
        "config.yaml": yaml.safe_dump(root),
        "model/m.yaml": "model: {name: m}\nsteps: 2\nseed: 2\n",
        "data/d.yaml": "defaults: {network: n}\ndata: {batch_size: 1}\n",
        "network/n.yaml": "network: {name: n}\n",
        "trainer/t.yaml": "",
        "model/other.yaml": "model: {name: other}\n",
        "experiment/e.yaml": "steps: 3\nseed: 3\n",
        "experiment/variant.yaml": "defaults: {experiment: e, model: other}\nseed: 5\nevaluation: {samples: 20}\n",
        "experiment/variant2.yaml": "defaults: {experiment: variant}\nevaluation: {samples: 30}\n",
        "experiment/one.yaml": "defaults: {experiment: two}\n",
        "experiment/two.yaml": "defaults: {experiment: one}\n",
        "experiment/lost.yaml": "defaults: {experiment: nowhere}\n",
    }
    for name, text in files.items():
        (tmp_path / "conf" / name).write_text(text)


def test_the_command_line_wins_over_the_experiment_and_that_over_the_groups(small):
    loaded = load(["seed=4"])
    assert (loaded["steps"], loaded["seed"]) == (3, 4)
    assert loaded["network"]["name"] == "n", "the data set chooses its network"


def test_no_load_is_seen_in_the_next_but_an_edited_file_is(small):
    first = load(["steps=9"])
    assert (first["steps"], load()["steps"], load(into=first, command="evaluate")["steps"]) == (9, 3, 9)
    Path("conf/experiment/e.yaml").write_text("steps: 5\n")
    assert load()["steps"] == 5


@pytest.mark.parametrize("apex", ["[0]", "[]", "[-3]", "[a]", "8"])
def test_the_diamond_s_size_is_a_size(apex):
    with pytest.raises(ConfigError, match=r"size\.apex"):
        load(["model=diamond", f"size.apex={apex}"])


@pytest.mark.parametrize("picks", ["", "[a]", "{experiment: 7}", "3"])
def test_picks_that_are_none_are_one_line(small, tmp_path, picks):
    (tmp_path / "conf/experiment/odd.yaml").write_text(f"defaults: {picks}\n")
    with pytest.raises(ConfigError, match=r"conf/experiment/odd\.yaml: defaults is no choice of files"):
        load(["experiment=odd"])


@pytest.fixture
def copied(tmp_path):
    """The project's own files, which a test may change."""
    shutil.copytree(Path(config.__file__).parents[2] / "conf", tmp_path / "conf")
    return tmp_path / "conf"


@pytest.mark.parametrize(
    "text, key, near",
    [
        ("stpes: 77", "stpes", "steps"),
        ("steps: {a: 1}", "steps.a", "steps"),
        ("optim: {learning_rate: .5}", "optim.learning_rate", "optim."),
        ("trainer: {precison: 32}", "trainer.precison", "trainer.precision"),
        ("game: {cylce: 1}", "game.cylce", "game.cycle"),
        ("data: {batchsize: 7}", "data.batchsize", "data.batch_size"),
        ("chains: {unclamped: {step: 3}}", "chains.unclamped.step", "chains.unclamped.steps"),
        ("chains: {free: {steps: 3}}", "chains.free.steps", "chains."),
        ("experiment: {seed: 3}", "experiment.seed", ""),
    ],
)
def test_a_file_s_unknown_key_is_refused(copied, text, key, near):
    (copied / "experiment" / "mine.yaml").write_text(text)
    with pytest.raises(ConfigError, match=rf"conf/experiment/mine\.yaml: unknown key '{key}': did you mean '{near}"):
        load(["experiment=mine"])


@pytest.mark.parametrize("group, key", [("trainer", "devices"), ("data", "batch_size")])
def test_one_s_own_file_of_a_group_says_what_differs_and_nothing_unknown(copied, group, key):
    for name, said in {"mine": key, "slip": key.replace("e", "", 1)}.items():
        (copied / group / f"{name}.yaml").write_text(f"{group}: {{{said}: 7}}")
    mine, usual = load([f"{group}=mine", "network=mlp"])[group], load(["network=mlp"])[group]
    assert mine.keys() == usual.keys() and mine[key] == 7 and usual[key] != 7
    slip = key.replace("e", "", 1)
    with pytest.raises(
        ConfigError, match=rf"conf/{group}/slip\.yaml: unknown key '{group}\.{slip}': did you mean '{group}\.{key}"
    ):
        load([f"{group}=slip"])


@pytest.mark.parametrize(
    "group, text, words",
    [
        ("trainer", "[1]", "conf/trainer/odd.yaml is a list"),
        ("trainer", "3", "conf/trainer/odd.yaml is not readable as YAML"),
        (
            "trainer",
            "trainer:",
            "conf/trainer/odd.yaml: trainer: expected settings below it, such as trainer.accelerator",
        ),
        ("trainer", "network: 3", "conf/trainer/odd.yaml: network: expected settings below it"),
        ("data", "data: null", "conf/data/odd.yaml: data: expected settings below it"),
        ("data", "steps: 4", "network=null: expected one of ali_cifar,"),
        ("data", "defaults: mlp", "conf/data/odd.yaml: defaults is no choice of files, such as {network: mlp}"),
        ("data", "defaults: {model: hali}", "conf/data/odd.yaml: defaults is no choice of files"),
        ("data", "defaults: {network: mlp}\ndata: {name: ring}", "conf/data/odd.yaml: unknown key 'data.name'"),
        ("model", "model: null", "conf/model/odd.yaml: model: expected settings below it"),
        ("network", "", "conf/network/odd.yaml: expected network: {...}, its own settings"),
        ("mode", "mode: {name: x}", "conf/mode/odd.yaml: unknown key 'mode.name'"),
        ("mode", "chains: {unclamped: {mode: [z]}}", "conf/mode/odd.yaml: a list stands where settings belong"),
        ("mode", "chains: {unclamped: {mode: null}}", "chains.unclamped.mode=None: expected stances of variables"),
        ("mode", "chains: {unclamped: {present: 3}}", "chains.unclamped.present=3: expected a list of variables"),
        (
            "trainer",
            "trainer: {progress: maybe}",
            "conf/trainer/odd.yaml: trainer.progress=maybe: expected true or false",
        ),
        ("experiment", "data: {verify: null}", "conf/experiment/odd.yaml: data.verify=None: expected true or false"),
        ("experiment", "data: {scale: wide}", "conf/experiment/odd.yaml: data.scale=wide: expected a number"),
        ("experiment", "defaults: {data: null}", "data=null: expected one of cifar10,"),
        (
            "experiment",
            "defaults: {nope: a}",
            "conf/experiment/odd.yaml: defaults is no choice of files, such as {model: ali",
        ),
        (
            "experiment",
            "optim: {betas: {}}",
            "conf/experiment/odd.yaml: optim.betas={}: expected two numbers in [0, 1)",
        ),
        ("experiment", "size: {z: {a: 1}}", "conf/experiment/odd.yaml: a list stands where settings belong"),
    ],
)
def test_a_file_that_is_no_settings_of_its_group_is_one_line(copied, group, text, words):
    (copied / group / "odd.yaml").write_text(text)
    with pytest.raises(ConfigError, match=f"^{re.escape(words)}"):
        load([f"{group}=odd"])


def test_what_a_file_may_name_by_itself(copied):
    text = (
        "clamp: {values: {y: 3}}\nsize: {w9: [4]}\nchains: {unclamped: {rise: 7}}\ngame: {gamma: {w9: 0.1}}\noptim: {}"
    )
    (copied / "experiment" / "mine.yaml").write_text(text)
    mine = load(["experiment=mine", "model=hali"])
    assert mine["clamp"]["values"] == {"y": 3} and mine["size"]["w9"] == [4] and mine["game"]["gamma"]["w9"] == 0.1
    assert mine["chains"]["unclamped"]["rise"] == 7


def test_the_keys_of_a_chain_are_those_that_it_has():
    assert set(config.CHAIN) == {field.name for field in fields(Chain)} > set(config.STATES)


def test_an_experiment_is_a_variant_of_another(small):
    """What it says wins over that, whose picks and settings hold else; the run is called after the variant."""
    loaded = load(["experiment=variant2"])
    assert (loaded["steps"], loaded["seed"], loaded["evaluation"]["samples"]) == (3, 5, 30)
    assert (loaded["experiment"], loaded["model"]["name"]) == ("variant2", "other")
    assert load(["experiment=variant2", "model=m"])["model"]["name"] == "m"
    with pytest.raises(ConfigError, match="experiment=one is a variant of itself: one -> two -> one"):
        load(["experiment=one"])
    with pytest.raises(ConfigError, match="experiment=nowhere: there is no"):
        load(["experiment=lost"])


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("optim.lrr=1", ["optim.lrr", "optim.lr"]),
        ("chains.unclamped.step=3", ["chains.unclamped.step", "chains.unclamped.steps"]),
        ("steps=many", ["steps=many", "an integer"]),
        ("steps={a: 1}", ["steps=", "an integer"]),
        ("clamp.hole={a: 1}", ["clamp.hole=", "one of left"]),
        ("critics.joint.hidden=-1", ["critics.joint.hidden=-1", "at least 1"]),
        ("chains.clamped.start=[1]", ["chains.clamped.start=[1]", "variables"]),
        ("trainer.precision=bf16-true", ["trainer.precision=bf16-true", "bf16-mixed"]),
        ("steps=1.5", ["steps", "an integer"]),
        ("steps=-3", ["steps", "at least 1"]),
        ("data.batch_size=0", ["data.batch_size", "at least 1"]),
        ("restart=1", ["restart", "true or false"]),
        ("chains.unclamped.steps=[]", ["chains.unclamped.steps", "[0,[1,4]]"]),
        ("chains.unclamped.steps=[1,2.5]", ["chains.unclamped.steps"]),
        ("chains.unclamped.steps=[0,[1,true]]", ["chains.unclamped.steps"]),
        ("chains.unclamped.steps=[0,[1,2,3]]", ["chains.unclamped.steps", "[0,[1,4]]"]),
        ("model=gibsnet", ["gibsnet", "gibbsnet"]),
        ("defaults.model=hali", ["unknown key 'defaults.model'"]),
        ("size.z=[]", ["size.z=[]", "at least 1"]),
        ("size.z1=[0]", ["size.z1=[0]", "at least 1"]),
        ("size.critic=-3", ["size.critic=-3", "at least 1"]),
        ("size.critic=0", ["size.critic=0", "at least 1"]),
        ("network.encode.width=[0]", ["network.encode.width=[0]", "at least 1"]),
        ("clamp.dreams=-1", ["clamp.dreams=-1", "at least 0"]),
        ("optim=3", ["optim"]),
        ("--steps", ["--steps", "key=value"]),
        ("steps=[", ["steps="]),
    ],
)
def test_a_mistake_is_one_line_that_names_the_key_and_what_was_expected(argument, words):
    with pytest.raises(ConfigError) as caught:
        load([argument])
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_an_integer_will_do_for_a_number_and_a_range_for_a_number_of_sweeps():
    assert load(["optim.lr=1"])["optim"]["lr"] == 1
    assert load(["chains.unclamped.steps=[1,4]"])["chains"]["unclamped"]["steps"] == [1, 4]
    assert load(["chains.unclamped.steps=[0,1,1]"])["chains"]["unclamped"]["steps"] == [0, 1, 1]
    assert load(["chains.unclamped.steps=[0,[1,4]]"])["chains"]["unclamped"]["steps"] == [0, [1, 4]]
    assert load(["chains.unclamped.steps=5"])["chains"]["unclamped"]["steps"] == 5


@pytest.mark.parametrize("name", ["7", "1e3", "yes", "2024-11-25", "a b"])
def test_a_name_may_look_like_a_number(name):
    assert load([f"run={name}"])["run"] == name and config.folder(load([f"run={name}"])).name == name


def test_size_and_penalty_reach_what_refers_to_them():
    loaded = load(["model=hali", "size.z1=[7]", "penalty.z=0.25"])
    assert loaded["graph"]["z1"]["shape"] == [7]
    assert loaded["game"]["gamma"]["z1"] == loaded["game"]["gamma"]["z2"] == 0.25


def test_written_and_read_back(tmp_path):
    loaded = load(["seed=3"])
    write(loaded, tmp_path / "run" / "config.yaml")
    assert read(tmp_path / "run") == loaded


@pytest.mark.parametrize("text", ["a: [", "just words", "seed: 3", "a: \xff"])
def test_a_damaged_config_is_named(tmp_path, text):
    (tmp_path / "config.yaml").write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"config\.yaml"):
        read(tmp_path)


def test_a_config_s_encoding_is_yaml_s_to_find_not_the_locale_s(tmp_path):
    loaded = load([]) | {"run": "läufe"}
    (tmp_path / "config.yaml").write_bytes(yaml.safe_dump(loaded, allow_unicode=True).encode("utf-16"))
    assert read(tmp_path) == loaded


@pytest.mark.parametrize("section", ["data", "chains", "optim"])
@pytest.mark.parametrize("odd", [None, 3, "words", []])
def test_a_section_that_holds_no_settings_is_named(tmp_path, section, odd):
    write(load([]) | {section: odd}, tmp_path / "config.yaml")
    with pytest.raises(ConfigError, match=rf"config\.yaml is damaged: {section}: expected settings"):
        read(tmp_path)


def test_a_run_can_be_read_in_another_chain_but_not_as_another_model(tmp_path):
    trained = load(["model=ali"])
    longer = load(["run=x", "chains.unclamped.steps=100"], into=trained)
    assert longer["chains"]["unclamped"]["steps"] == 100
    assert longer["command"] == trained["command"]
    with pytest.raises(ConfigError, match="model=hali"):
        load(["model=hali"], into=trained)


def test_a_recorded_command_is_not_resolved_again(monkeypatch):
    monkeypatch.setenv("WHERE", "there")
    trained = load(["data.root=${oc.env:WHERE}"])
    monkeypatch.delenv("WHERE")
    again = load(["evaluation.samples=20"], trained, "evaluate")
    assert again["data"]["root"] == "there" and again["command"] == trained["command"]
    with pytest.raises(ConfigError, match="WHERE"):
        load(["data.root=${oc.env:WHERE}", "seed=3"])


@pytest.mark.parametrize(
    "command, setting",
    [
        ("sample", "seed=2"),
        ("sample", "steps=5"),
        ("sample", "size.critic=8"),
        ("sample", "evaluation.samples=20"),
        ("sample", "chains.clamped.steps=1"),
        *(("sample", f"chains.unclamped.{part}=1") for part in sorted({*config.CHAIN} - {*config.STATES})),
        ("evaluate", "chains.unclamped.steps=9"),
        ("evaluate", "mode=dreaming"),
        ("evaluate", "clamp.hole=left"),
        ("evaluate", "data=mnist"),
        ("evaluate", "restart=true"),
    ],
)
def test_what_comes_too_late_is_refused(command, setting):
    said = (
        rf"{setting.partition('=')[0]} cannot be said to {command}, after the training: it takes .*evaluation\..*judges"
    )
    with pytest.raises(ConfigError, match=said):
        load([setting], load([]), command)


def test_sweeps_beside_parts_of_real_images_have_a_key_of_their_own():
    with pytest.raises(ConfigError, match=r"chains\.unclamped\.steps: beside parts of real images say clamp\.steps"):
        load(["clamp.hole=left", "chains.unclamped.steps=9"], load([]), "sample")


@pytest.mark.parametrize("short, long", [("32", "32-true"), ("bf16", "bf16-mixed"), ("64", "64-true")])
def test_a_precision_by_its_short_name_is_the_same_configuration(short, long, tmp_path):
    assert load([f"trainer.precision={short}"])["trainer"]["precision"] == long
    old = load([f"trainer.precision={long}", "steps=7"])
    write(old | {"trainer": old["trainer"] | {"precision": short}}, tmp_path / "config.yaml")
    assert read(tmp_path) == old, "a run of an earlier version may have the short one"


@pytest.mark.parametrize(
    "settings, said",
    [
        (["clamp.mix=true"], "clamp.mix changes nothing without clamp.hole$"),
        (["clamp.of=z", "clamp.whole=[x]"], "clamp.of changes nothing without clamp.hole$"),
        (["clamp.channels=[0]", "clamp.values={y: 3}"], "clamp.channels changes nothing without clamp.hole$"),
        (["clamp.steps=[2]"], r"clamp\.steps changes nothing without clamp\.hole or clamp\.whole$"),
        (
            ["clamp.dreams=3", "clamp.whole=[]"],
            r"clamp\.dreams changes nothing unless clamp\.hole or clamp\.whole holds x, and",
        ),
        (["clamp.attend=false"], "clamp.attend changes nothing unless clamp.hole or clamp.whole holds x$"),
        (["clamp.attend=false", "clamp.whole=[z]"], "clamp.attend changes nothing unless"),
        (["clamp.dreams=3", "clamp.hole=left", "clamp.of=z"], "clamp.dreams changes nothing unless"),
        (["clamp.hole=left", "clamp.attend=false", "clamp.dreams=3"], "clamp.dreams .*, and clamp.attend=true$"),
        (["clamp.share=0.3", "clamp.hole=left"], "clamp.share changes nothing without clamp.hole=random$"),
    ],
)
def test_what_is_about_a_hole_that_there_is_not_is_refused(settings, said):
    with pytest.raises(ConfigError, match=said):
        load(settings, load([]), "sample")


@pytest.mark.parametrize("part, value", [("share", 0.5), ("silent", True)])
def test_what_a_stance_says_to_the_training_alone_is_refused(part, value):
    said = f"chains.unclamped.mode={{z2: {{clamped: true, {part}: {value}}}}}"
    with pytest.raises(ConfigError, match=rf"chains\.unclamped\.mode\.z2\.{part} changes nothing here"):
        load([said], load(["model=gibbsnet2"]), "sample")
    trained = load(["model=gibbsnet2", "mode=dreaming", said])
    kept = load(["chains.unclamped.mode.z2.clamped=false"], trained, "sample")["chains"]["unclamped"]["mode"]
    assert kept == {"z2": {"clamped": False, part: value}}, "what it was trained with stays"


def test_a_mode_s_file_may_be_for_a_training_as_well(tmp_path, monkeypatch):
    shutil.copytree(conf_folder(), tmp_path / "conf")
    stances = {"x": {"potency": 1.0}, "z2": {"clamped": True, "share": 0.5, "silent": True}}
    mode = {"chains": {"unclamped": {"mode": stances}}}
    (tmp_path / "conf" / "mode" / "mine.yaml").write_text(yaml.safe_dump(mode))
    monkeypatch.chdir(tmp_path)
    mixed = load(["mode=mine", "chains.unclamped.mode.x.potency=0.2"], load(["model=gibbsnet2"]), "sample")
    assert mixed["chains"]["unclamped"]["mode"] == stances | {"x": {"potency": 0.2}}
    with pytest.raises(ConfigError, match=r"mode\.z2\.share changes nothing here"):
        load(["mode=mine", "chains.unclamped.mode.z2.share=0.2"], load(["model=gibbsnet2"]), "sample")


def test_a_start_is_refused_where_chains_start_from_dreams():
    start = ["chains.unclamped.start=[z, x]", "clamp.hole=left"]
    for held in ([], ["clamp.hole=null", "clamp.whole=[x]"], ["clamp.of=z", "clamp.whole=[x]"]):
        with pytest.raises(ConfigError, match=r"start changes nothing .* clamp\.dreams=0 or clamp\.attend=false"):
            load([*start, *held], load([]), "sample")
    for plain in ("clamp.dreams=0", "clamp.attend=false", "clamp.of=z"):
        assert load([*start, plain], load([]), "sample")["chains"]["unclamped"]["start"] == ["z", "x"]


def test_no_mode_at_all_is_no_way_out_of_the_trained_one():
    """Its stances would stay, under no name."""
    trained = load(["model=gibbsnet2", "mode=daydreaming"])
    for nothing in ("null", ""):
        with pytest.raises(ConfigError, match=f"mode={nothing}: the run was trained with stances; say mode=dreaming"):
            load([f"mode={nothing}"], trained, "sample")
    for free in (["mode=dreaming"], []):
        assert load(["mode=null"], load(["model=gibbsnet2", *free]), "sample")["mode"] is None


def test_what_a_run_was_trained_with_passed_the_checks_of_its_time():
    old = load(["data.labels=100", "data.labelled=20", "tracking.entity=team"])
    old["data"].update(labels=None, validation=1)
    assert load(["tracking.entity=null"], old, "evaluate")["tracking"]["entity"] is None
    with pytest.raises(ConfigError, match=r"evaluation\.samples=3: expected"):
        load(["evaluation.samples=3"], old, "evaluate")
    old["evaluation"]["samples"] = 3
    with pytest.raises(ConfigError, match=r"evaluation\.samples=3: expected"):
        load([], old, "evaluate")


@pytest.mark.parametrize(
    "command, settings",
    [
        ("sample", ["run=x", "chains.unclamped.steps=9", "evaluation.seed=3", "trainer.threads=1"]),
        ("sample", ["run=x", "clamp.hole=null", "chains.unclamped.steps=9", "clamp.mix=false"]),
        ("sample", ["run=x", "chains.unclamped.mode={x: {potency: 0.5}}", "chains.unclamped.blocks=[[z], [x]]"]),
        ("sample", ["run=x", "chains.unclamped.start=[x]", "chains.unclamped.learned=[]"]),
        ("sample", ["run=x", "clamp.whole=[x]", "clamp.attend=false", "clamp.steps=[2]"]),
        ("sample", ["run=x", "clamp.whole=[x]", "clamp.dreams=30", "clamp.steps=[2]"]),
        (
            "sample",
            ["run=x", "clamp.share=0.3", "clamp.hole=random", "clamp.of=z", "clamp.mix=true", "clamp.channels=[0]"],
        ),
        (
            "evaluate",
            ["run=x", "evaluation.samples=20", "trainer.accelerator=cpu", "tracking.mode=disabled", "judges=j"],
        ),
    ],
)
def test_what_is_read_after_the_training_can_be_said(command, settings):
    assert load(settings, load([]), command)["run"] == "x"
    with pytest.raises(ConfigError, match=r"unknown key 'evaluation\.sample': did you mean"):
        load(["evaluation.sample=20"], load([]), command)


@pytest.mark.parametrize(
    "setting, expected",
    [
        ("seed=null", "seed=None: expected an integer in 0..4294967295"),
        ("seed=-1", "seed=-1: expected an integer in 0..4294967295"),
        ("evaluation.seed=4294967296", "evaluation.seed=4294967296: expected an integer in 0..4294967295"),
        ("judges=null", "judges=None: expected a word"),
        ("data.batch_size=null", "data.batch_size=None: expected an integer of at least 1"),
        ("game.gamma.x=null", "game.gamma.x=None: expected a number"),
        ("clamp.of=null", "clamp.of=None: expected a word"),
        ("clamp.share=half", "clamp.share=half: expected a number"),
        ("clamp.whole=z", "clamp.whole=z: expected a list of variables"),
        ("clamp.values=3", "clamp.values=3: expected values of variables"),
        ("clamp.channels=0", "clamp.channels=0: expected a list of integers"),
        ("clamp.emergency=-1", "clamp.emergency=-1: expected a number of at least 0, or null"),
        ("data.validation=1", "data.validation=1: expected an integer of at least 2, or null"),
        ("data.channels=2", "data.channels=2: expected 1, 3 or null"),
        ("data.channels=true", "data.channels=True: expected 1, 3 or null"),
        ("data.shape=8", "data.shape=8: expected integers of at least 1, or null"),
        ("trainer.max_time=1:2:3:4", "trainer.max_time=1:2:3:4: expected DD:HH:MM:SS"),
        ("trainer.max_time=soon", "trainer.max_time=soon: expected DD:HH:MM:SS"),
        (
            "trainer.max_time=00:00:00:00",
            "trainer.max_time=00:00:00:00: expected DD:HH:MM:SS of more than nothing, or null",
        ),
        ("data.image_size=big", "data.image_size=big: expected an integer"),
        ("trainer.max_time=5", "trainer.max_time=5: expected DD:HH:MM:SS of more than nothing, or null"),
        ("trainer.precision=null", "trainer.precision=None: expected"),
        ("supervised.y.known=-1.0", "supervised.y.known=-1.0: expected a number of at least 0"),
        ("optim.lr=.inf", "optim.lr=inf: expected a number of at least 0 and finite"),
        ("optim.clip=0", "optim.clip=0: expected a number above 0, or null"),
        ("run=a::b", "run=a::b: expected a folder whose path has no '::', or null"),
        ("tracking.tags=[2024]", "tracking.tags=[2024]: expected a list of words"),
        ("tracking.project=a/b", "tracking.project=a/b: expected a name of at most 128 characters without /"),
        ("graph.z.shape=[0]", "graph.z.shape=[0]: expected integers of at least 1, or null"),
        ("chains.unclamped.mode={z: 0.5}", "chains.unclamped.mode.z=0.5: expected a stance, such as {potency: 0.5}"),
        (
            "chains.unclamped.mode={z: {potncy: 1}}",
            "mode.z.potncy=1: expected a stance of clamped, potency, share, silent",
        ),
        (
            "chains.unclamped.mode={z: {potency: high}}",
            "chains.unclamped.mode.z.potency=high: expected a number in [0, 1]",
        ),
        ("chains.unclamped.mode={z: {potency: [0.5]}}", "mode.z.potency=[0.5]: expected a number in [0, 1]"),
        ("chains.unclamped.mode={z: {clamped: 1}}", "chains.unclamped.mode.z.clamped=1: expected true or false"),
    ],
)
def test_null_and_other_kinds_are_refused_where_a_value_is_needed(setting, expected):
    with pytest.raises(ConfigError, match=re.escape(expected)):
        load(["model=labelled", setting])


@pytest.mark.parametrize(
    "setting",
    ["optim.clip=null", "optim.floor_from=null", "data.labels=null", "network.encode.norm=null", "trainer.max_time=null",
     "trainer.max_time=00:12:00:00", "data.shape=null", "trainer.threads=null", "run=null", "critics.joint.hears.age=null"],
)  # fmt: skip
def test_null_is_a_value_where_there_may_be_none(setting):
    load(["experiment=digits", setting])


def test_a_folder_below_home_is_spelled_out(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    config = load(["run=~/mine"])
    assert folder(config) == tmp_path / "mine" and config["run"] == str(tmp_path / "mine")
    (tmp_path / "mine").mkdir()
    write(config, tmp_path / "mine" / "config.yaml")
    assert read("~/mine") == config
    with pytest.raises(ValueError, match="~nobody-of-that-name/mine: "):
        load(["run=~nobody-of-that-name/mine"])


@pytest.mark.parametrize("model", config.choices("model"))
def test_any_model_s_chain_may_be_given_what_its_file_does_not_name(model):
    plain = load([f"model={model}"])
    for key, value in {"learned": ["z"], "cut": ["x"], "present": ["x"], "rise": 7, "dream_every": 2}.items():
        told = load([f"model={model}", f"chains.unclamped.{key}={value}".replace("'", "")])
        assert told["chains"]["unclamped"][key] == value
        assert differences(told, plain) == [f"chains.unclamped.{key}"], "and nothing else"
        told["chains"]["unclamped"][key] = type(value)()
        assert differences(told, plain) == [], "as it is where nothing is said"
    with pytest.raises(ConfigError, match=r"rise=\[1\]: expected an integer, such as 0"):
        load([f"model={model}", "chains.unclamped.rise=[1]"])


def test_what_starts_from_moments_is_a_list_of_names():
    with pytest.raises(ConfigError, match=r"chains\.unclamped\.learned=\[1\]: expected a list of variables"):
        load(["chains.unclamped.learned=[1]"])


def test_a_stance_said_to_sample_is_looked_at_and_one_of_the_training_is_not():
    old = load(["model=gibbsnet2"])
    with pytest.raises(ConfigError, match=r"chains\.unclamped\.mode\.z2\.potncy=1: expected a stance of"):
        load(["chains.unclamped.mode={z2: {potncy: 1}}"], old, "sample")
    old["chains"]["unclamped"]["mode"], old["mode"] = {"z1": {"of another time": 0.5}}, "dreaming"
    assert load([], old, "sample")["chains"] == old["chains"]


def test_what_would_train_other_weights_is_told_from_circumstances():
    base = load([])
    assert (
        differences(base, load(["run=elsewhere", "tracking.mode=offline", "trainer.devices=2", "data.root=/data"]))
        == []
    )
    assert differences(base, load(["optim.lr=0.5", "run=elsewhere"])) == ["optim.lr"]
    assert "chains.unclamped.steps" in differences(base, load(["model=ali"]))


def test_a_run_that_is_older_than_a_chain_s_option_is_what_it_would_be_with_it():
    new, old = load(["model=gibbsnet"]), load(["model=gibbsnet"])
    for option in ("cut", "learned", "rise"):
        assert not old["chains"]["unclamped"].pop(option)
    assert differences(old, new) == differences(new, old) == []
    assert differences(old, load(["model=gibbsnet", "chains.unclamped.cut=[x]"])) == ["chains.unclamped.cut"]
    del old["chains"]["unclamped"]["grad_draws"], old["game"]["cycle"]
    assert set(differences(old, new)) == {"chains.unclamped.grad_draws", "game.cycle"}, "3 is no idle option"


def test_leaves_are_dotted_keys():
    assert dict(leaves({"a": {"b": 1, "c": {}}, "d": [1]})) == {"a.b": 1, "a.c": {}, "d": [1]}


def test_a_run_that_is_older_than_a_key_of_evaluation_takes_its_default():
    old = load(["evaluation.samples=77"])
    del old["evaluation"]["split"]
    assert load([], into=old)["evaluation"] == {**old["evaluation"], "split": "test"}
    assert load(["evaluation.split=validation"], into=old)["evaluation"]["split"] == "validation"
    with pytest.raises(ConfigError, match=r"evaluation\.split.*expected test or validation"):
        load(["evaluation.split=train"], into=old)


@pytest.mark.parametrize(
    "settings, names",
    [
        ("model=hali data=mnist", ["mnist_levels"]),
        ("model=gibbsnet data=ring", ["ring", "ring_bce", "ring_stable"]),
        ("model=ali data=mnist", ["mnist model=ali"]),  # no experiment of ALI's own there
        ("model=gibbsnet_published data=grid", ["grid model=gibbsnet_published"]),
        ("model=gibbsnet data=ring experiment=default", ["ring", "ring_bce", "ring_stable"]),
        ("model=hali data=mnist experiment=mnist", []),
        ("model=ali data=npz data.path=mine.npz", []),
    ],
)
def test_general_settings_come_with_the_experiments_there_are(settings, names):
    assert experiments(load(settings.split())) == names


def test_an_experiment_that_is_not_readable_is_no_matter_of_other_trainings(tmp_path, monkeypatch):
    shutil.copytree(conf_folder(), tmp_path / "conf")
    (tmp_path / "conf" / "experiment" / "mnist_odd.yaml").write_text("defaults: [1")
    (tmp_path / "conf" / "experiment" / "mnist_mine.yaml").write_text("defaults: {model: hali, data: mnist}")
    monkeypatch.chdir(tmp_path)
    assert experiments(load(["model=hali", "data=mnist"])) == ["mnist_levels", "mnist_mine"]
