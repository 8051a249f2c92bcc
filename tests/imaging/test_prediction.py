from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from numpy.testing import assert_allclose

import clinome
from clinome.core.errors import CohortError, FormatError, TraitError
from clinome.imaging import prediction, supervised
from clinome.imaging.geometry import Spread, still
from clinome.imaging.judging import Cut, gains_of_masks, measured, threshold
from clinome.imaging.models import multi_view, resnet
from clinome.imaging.pictures import Preparation, prepared
from clinome.imaging.prediction import Recipe, predict, read_predictor, train_predictor
from clinome.imaging.targets import Target, code, decode, encode, loss
from clinome.train.batches import Drawn

SMALL = resnet.Config(layers=18, width=8, stem="small")
RECIPE = Recipe(epochs=3, batch=16, spread=Spread(shift=0.05, mirror=(1,)), turns=2, mixup=0.2, precision="float32")


def cohort(n: int = 120, *, side: int = 12, seed: int = 0, folds: int = 0) -> tuple[np.ndarray, pl.DataFrame]:
    """Pictures of a blob whose size says the number and whose brightness says the class, in noise."""
    generator = np.random.default_rng(seed)
    size, bright = generator.uniform(1.5, 4.5, n), generator.integers(0, 2, n)
    place = np.arange(side) - (side - 1) / 2
    radius = np.hypot(place[:, None], place[None])
    pictures = (1 / (1 + np.exp(2 * (radius - size[:, None, None])))) * np.where(bright, 1.0, -1.0)[:, None, None]
    pictures = 100 + 40 * pictures + 5 * generator.standard_normal(pictures.shape)
    split = (
        [f"fold_{i % folds + 1}" for i in range(n)]
        if folds
        else np.repeat(["train", "validation", "test"], [n // 2, n // 4, n - n // 2 - n // 4])
    )
    people = pl.DataFrame(
        {
            "example_id": [f"e{i}" for i in range(n)],
            "participant_id": [f"p{i}" for i in range(n)],
            "split": list(split),
            "size": size,
            "tone": np.where(bright, "light", "dark"),
        }
    )
    return pictures[:, None].astype(np.float32), people


def value(metrics: pl.DataFrame, name: str, target: str, predictor: str = "model") -> float:
    found = metrics.filter((pl.col("name") == name) & (pl.col("target") == target) & (pl.col("predictor") == predictor))
    return float(found["value"].item())


def test_several_targets_are_learnt_beside_floors_and_predicted_anew(tmp_path: Path) -> None:
    pictures, people = cohort(240)
    targets = [Target("tone", "classes"), Target("size", "number")]
    fitted = train_predictor(
        pictures, people, targets, network=SMALL, preparation=Preparation((12, 12)), out=tmp_path, recipe=Recipe(epochs=8, batch=16)
    )
    assert value(fitted.metrics, "auroc", "tone") > 0.95
    assert value(fitted.metrics, "mae", "size") < 0.5 < value(fitted.metrics, "mae", "size", "mean")
    assert {"pixels, logistic", "pixels, svm", "histogram, logistic", "components, logistic", "blend", "shares"} <= set(
        fitted.metrics.filter(pl.col("target") == "tone")["predictor"]
    )
    assert set(fitted.predictions["split"]) == {"validation", "test"}
    test = people["split"].to_numpy() == "test"
    again = predict(tmp_path, pictures[test], example_ids=people["example_id"].filter(pl.Series(test)).to_list())
    told = fitted.predictions.filter(pl.col("split") == "test")
    for column in ("predicted:tone:light", "predicted:size"):
        assert_allclose(again[column].to_numpy(), told[column].to_numpy(), atol=1e-6)
    assert set(again["split"]) == {"new"}


def test_new_pictures_are_normalised_as_those_learnt_from(tmp_path: Path) -> None:
    pictures, people = cohort(40)
    preparation = Preparation((12, 12), normalise="local")
    given = {"network": SMALL, "preparation": preparation, "recipe": Recipe(epochs=1, batch=20), "floors": False}
    told = train_predictor(pictures, people, [Target("tone", "classes")], out=tmp_path, **given).predictions  # type: ignore[arg-type]
    again = predict(tmp_path, pictures, example_ids=people["example_id"].to_list()).join(told, on="example_id", suffix=":told")
    assert_allclose(again["predicted:tone:light"].to_numpy(), again["predicted:tone:light:told"].to_numpy(), atol=1e-6)


class Killed(BaseException):
    pass


class Breaking:
    """Pictures that stop the program at the n-th look."""

    def __init__(self, pictures: np.ndarray, after: int) -> None:
        self.pictures, self.left = pictures, after

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, row: int) -> np.ndarray:
        self.left -= 1
        if self.left < 0:
            raise Killed
        return np.asarray(self.pictures[row])


def test_a_killed_training_ends_with_the_same_bytes(tmp_path: Path) -> None:
    pictures, people = cohort(60, folds=3)
    given = {"network": SMALL, "preparation": Preparation((12, 12)), "recipe": RECIPE, "floors": False}
    targets = [Target("tone", "classes")]
    whole = train_predictor(pictures, people, targets, out=tmp_path / "whole", **given)  # type: ignore[arg-type]
    for after in (155, 240):  # in the third epoch of the first network, then in the second network
        with pytest.raises(Killed):
            train_predictor(Breaking(pictures, after), people, targets, out=tmp_path / "killed", **given)  # type: ignore[arg-type]
        assert list((tmp_path / "killed").rglob("*.state"))
    again = train_predictor(pictures, people, targets, out=tmp_path / "killed", **given)  # type: ignore[arg-type]
    assert again.predictions.equals(whole.predictions)
    made = {path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole").rglob("*") if path.is_file()}
    assert made == {path.relative_to(tmp_path / "killed") for path in (tmp_path / "killed").rglob("*") if path.is_file()}
    assert {path.name for path in made} > {"fold_1_0.safetensors", "fold_3_0.safetensors", "predictor.json", "history.json"}
    for name in made - {Path("provenance.json")}:
        one, other = (tmp_path / folder / name for folder in ("whole", "killed"))
        if name.name.startswith("fold_") and name.suffix == ".json":  # all but the seconds
            assert json.loads(one.read_text()) | {"cpu_seconds": 0} == json.loads(other.read_text()) | {"cpu_seconds": 0}
        else:
            assert one.read_bytes() == other.read_bytes(), name


def test_a_folder_is_the_old_predictor_or_the_new_one_whenever_it_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Train, train again with another split, killed before each of the files that are written at the end: never parts of both."""
    pictures, people = cohort(40, folds=2)
    again = people.with_columns(split=pl.Series([f"fold_{i % 4 // 2 + 1}" for i in range(40)]))
    given = {"network": SMALL, "preparation": Preparation((12, 12)), "recipe": Recipe(epochs=1, batch=16), "floors": False}
    names = people["participant_id"].to_list()

    def says(folder: Path) -> np.ndarray:
        return predict(folder, pictures, participant_ids=names)["predicted:tone:light"].to_numpy()

    def train(people: pl.DataFrame, folder: Path) -> None:
        given["clear"] = lambda: (folder / "beside.txt").unlink(missing_ok=True)
        train_predictor(pictures, people, [Target("tone", "classes")], out=folder, **given)  # type: ignore[arg-type]

    def shown(folder: Path) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}

    train(people, tmp_path / "a")
    (tmp_path / "a" / "beside.txt").write_text("what a caller left there")
    train(again, tmp_path / "b")
    old, new, of_old, of_new = says(tmp_path / "a"), says(tmp_path / "b"), shown(tmp_path / "a"), shown(tmp_path / "b")
    assert np.abs(old - new).max() > 1e-3
    written, replaced = Path.replace, 0
    for dies_before in range(15):
        folder, left = shutil.copytree(tmp_path / "a", tmp_path / f"killed_{dies_before}"), [dies_before]
        shutil.copytree(tmp_path / "b" / "networks", folder / "networks", dirs_exist_ok=True)  # trained, nothing written yet

        def replace(path: Path, target: Path, *, left: list[int] = left) -> Path:
            if ".partial." in path.name and "writable" not in path.name:
                left[0] -= 1
                if left[0] < 0:
                    raise Killed
            return written(path, target)

        killed = False
        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", replace)
            try:
                train(again, folder)
            except Killed:
                killed = True
        found = shown(folder)
        if found["predictor.json"] == of_old["predictor.json"]:
            assert_allclose(says(folder), old, atol=1e-9)
            assert found.items() <= of_old.items()
        else:
            replaced += 1
            assert_allclose(says(folder), new, atol=1e-9)
            assert found.pop("provenance.json", b"") != of_old["provenance.json"]
            assert found.items() <= of_new.items()
            assert [one.name for one in (folder / "networks").iterdir()] == [read_predictor(folder).folder.name]
        if not killed:
            assert shown(folder).keys() == of_new.keys()
            break
    else:
        pytest.fail("the training never came to its end")
    assert dies_before > 8  # every table, history, provenance and the predictor itself
    assert 0 < dies_before + 1 - replaced < 4  # the new network is there before its tables


def test_another_version_of_the_code_trains_anew_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures, people = cohort(40)
    given = {"network": SMALL, "preparation": Preparation((12, 12)), "recipe": Recipe(epochs=1, batch=16), "floors": False}
    keys, said = [], list[str]()
    monkeypatch.setattr(prediction, "say", said.append)
    for version in ("1", "1", "2"):
        monkeypatch.setattr(clinome, "__version__", version)
        train_predictor(pictures, people, [Target("tone", "classes")], out=tmp_path, **given)  # type: ignore[arg-type]
        keys.append(read_predictor(tmp_path).folder.name)
        assert any("another version of Clinome: training begins anew" in line for line in said) == (version == "2")
    assert keys[0] == keys[1] != keys[2]
    assert [one.name for one in (tmp_path / "networks").iterdir()] == [keys[2]]


def test_a_change_in_any_one_of_many_pictures_makes_another_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys: list[str] = []

    def stop(*_: object, key: str, **__: object) -> None:
        keys.append(key)
        raise Killed

    monkeypatch.setattr(supervised, "fit_network", stop)
    pictures, people = cohort(5000, side=4)
    for row in (None, None, 1, 2499):
        if row is not None:
            pictures[row, 0, 3, 3] += 1
        with pytest.raises(Killed):
            train_predictor(
                pictures, people, [Target("tone", "classes")], network=SMALL, preparation=Preparation((4, 4)), out=tmp_path
            )
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3


def test_in_folds_nobody_is_predicted_by_a_network_that_saw_them(tmp_path: Path) -> None:
    """A truth that is noise, learnt by heart: known people are told right, out of fold nobody is."""
    pictures, people = cohort(48, folds=3, seed=1)
    noise = np.random.default_rng(5).permutation(np.repeat(["a", "b"], 24))
    people = people.with_columns(noise=pl.Series(noise))
    recipe = Recipe(epochs=25, batch=16, average=None, weight_decay=0.0)
    fitted = train_predictor(
        pictures,
        people,
        [Target("noise", "classes")],
        network=SMALL,
        preparation=Preparation((12, 12)),
        out=tmp_path,
        recipe=recipe,
        floors=False,
    )
    assert 0.2 < value(fitted.metrics, "auroc", "noise") < 0.8
    known = predict(tmp_path, pictures, participant_ids=people["participant_id"].to_list())
    assert_allclose(known["predicted:noise:a"].to_numpy(), fitted.predictions["predicted:noise:a"].to_numpy(), atol=1e-6)
    strangers = predict(tmp_path, pictures)
    right = (strangers["predicted:noise:a"].to_numpy() > 0.5) == (noise == "a")
    assert right.mean() > 0.9  # two of three networks saw each


def test_views_are_taken_together_or_one_by_one(tmp_path: Path) -> None:
    pictures, people = cohort(90)
    views = np.stack([pictures, pictures[:, :, ::-1]], axis=1)
    targets = [Target("tone", "classes"), Target("size", "number", helps=True)]
    for name, network in (("one", SMALL), ("together", multi_view.Config(views=2, widths=(8, 8), size=12))):
        fitted = train_predictor(
            views,
            people,
            targets,
            network=network,
            preparation=Preparation((12, 12)),
            out=tmp_path / name,
            recipe=Recipe(epochs=6, batch=16),
        )
        assert value(fitted.metrics, "auroc", "tone") > 0.9, name
        assert not any("size" in column for column in fitted.predictions.columns)


def test_volumes(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    label = np.arange(40) % 2
    volumes = generator.standard_normal((40, 1, 6, 8, 8)) + 2 * label[:, None, None, None, None] * (np.arange(6) > 2)[:, None, None]
    people = cohort(40)[1].with_columns(lesion=pl.Series(label))
    fitted = train_predictor(
        volumes,
        people,
        [Target("lesion", "classes")],
        network=resnet.Config(layers=18, dims=3, width=4, stem="small"),
        preparation=Preparation((6, 8, 8)),
        out=tmp_path,
        recipe=Recipe(epochs=10, batch=8, average=None),
    )
    assert value(fitted.metrics, "auroc", "lesion") > 0.9


def test_how_each_network_was_trained_is_kept(tmp_path: Path) -> None:
    """A curve a member, validated after each epoch; the loss kept is that of the step kept; what weights it began with."""
    pictures, people = cohort(80)
    given = {"network": SMALL, "preparation": Preparation((12, 12)), "floors": False}
    recipe = Recipe(epochs=4, batch=20, members=2, keep="best", average=None)
    train_predictor(pictures, people, [Target("tone", "classes")], out=tmp_path / "a", recipe=recipe, **given)  # type: ignore[arg-type]
    curves = json.loads((tmp_path / "a" / "history.json").read_text())["curves"]
    assert [(one["part"], one["member"], one["steps"], one["watched"]) for one in curves] == [
        ("all", k, 8, "auroc") for k in (1, 2)
    ]
    for one in curves:
        assert [record["step"] for record in one["records"]] == [2, 4, 6, 8]
        best = [record["validation.auroc"] for record in one["records"]]
        assert one["kept"] == one["records"][int(np.argmax(best))]["step"]
        assert all(record["loss"] > 0 and record["validation.loss"] > 0 for record in one["records"])
    begun = next((tmp_path / "a" / "networks").rglob("all_0.safetensors"))
    recipe = Recipe(epochs=1, batch=20, precision="bfloat16")
    train_predictor(
        pictures,
        people,
        [Target("tone", "classes")],
        out=tmp_path / "b",
        recipe=recipe,
        weights=begun,
        **given,  # type: ignore[arg-type]
    )
    told = json.loads((tmp_path / "b" / "provenance.json").read_text())["settings"]["training"]
    network = read_predictor(tmp_path / "b").networks("all")[0]
    assert told["parameters"] == sum(one.numel() for one in network.parameters())
    assert (told["networks"], told["precision"], told["device"]) == (1, "bfloat16, channels last", "cpu")
    assert told["weights"]["name"] == "all_0.safetensors"
    assert told["weights"]["sha256"] == hashlib.sha256(begun.read_bytes()).hexdigest()
    assert told["weights"]["matched"] == sum(not key.startswith(resnet.HEADS) for key in network.state_dict())
    assert told["cpu_seconds"] > 0


def test_r2_in_folds_compares_with_what_each_fold_knew(tmp_path: Path) -> None:
    """Two folds whose means differ: each person is set against the mean of the other fold."""
    people = cohort(40, folds=2)[1].with_columns(size=pl.Series([float(i % 2 * 10 + i / 40) for i in range(40)]))
    one, two = (people.filter(split=f"fold_{k}")["size"].to_numpy() for k in (1, 2))
    told = people.drop("tone").with_columns(pl.lit(5.0).alias("predicted:size"))
    coded = {
        fold: code([Target("size", "number")], people, np.flatnonzero((people["split"] != fold).to_numpy()))
        for fold in ("fold_1", "fold_2")
    }
    metrics = measured(np.zeros((40, 1, 8, 8)), people, told, coded, {}, dims=2, floors=False, seed=0)
    centre = (len(one) * two.mean() + len(two) * one.mean()) / 40
    every = people["size"].to_numpy()
    assert value(metrics, "r2", "size") == pytest.approx(1 - ((every - 5) ** 2).sum() / ((every - centre) ** 2).sum())


def test_gains_of_masks_are_paired_and_averaged_over_structures() -> None:
    generator = np.random.default_rng(2)
    rows = [(f"e{k}", f"p{k // 2}", name, "both") for k in range(30) for name in ("a", "b")]
    overlaps = pl.DataFrame(rows, schema=["example_id", "participant_id", "structure", "state"], orient="row")
    floor = overlaps.with_columns(dice=pl.Series(generator.uniform(0.2, 0.8, 60)))
    model = floor.with_columns(
        dice=pl.col("dice") + pl.when(structure="a").then(0.1).otherwise(pl.lit(generator.normal(0, 0.2, 60)))
    )
    model = model.with_columns(
        dice=pl.when((pl.col("example_id") == "e3") & (pl.col("structure") == "b")).then(None).otherwise("dice")
    )
    found = gains_of_masks(model, floor, floor_name="mean shape", split="test")
    assert found["subgroup"].to_list() == ["structure=a", "structure=b", "all"]
    a, b, every = found.iter_rows(named=True)
    assert (a["value"], a["lower"], a["upper"]) == pytest.approx((0.1, 0.1, 0.1))  # whatever the images: the pair is what counts
    of_b = (model["dice"] - floor["dice"]).filter(model["structure"] == "b").drop_nulls()
    assert len(of_b) == 29
    assert b["value"] == pytest.approx(of_b.mean())
    assert b["lower"] < b["value"] < b["upper"]
    assert every["value"] == pytest.approx((a["value"] + b["value"]) / 2)
    assert set(found["predictor"]) == {"model against mean shape"}
    assert gains_of_masks(model.head(0), floor.head(0), floor_name="x", split="test").height == 0


def test_copies_are_told_by_their_looks(tmp_path: Path) -> None:
    """A picture of 80 pixels a side, a little brighter, in two splits: another content, the same looks."""
    pictures = np.random.default_rng(3).normal(100, 20, (40, 1, 80, 80)).astype(np.float32)
    people = cohort(40)[1]
    pictures[35] = 1.03 * pictures[2] + 1
    given = {"network": SMALL, "preparation": Preparation((12, 12)), "recipe": Recipe(epochs=1), "floors": False, "out": tmp_path}
    with pytest.raises(CohortError, match=r"near_duplicates: 1 in test, train \(e.g. e35\)"):
        train_predictor(pictures, people, [Target("tone", "classes")], **given)  # type: ignore[arg-type]


def test_a_leaking_split_needs_the_explicit_word(tmp_path: Path) -> None:
    pictures, people = cohort(40)
    pictures[30] = pictures[0]  # a copy of a training picture among the test pictures
    given = {"network": SMALL, "preparation": Preparation((12, 12)), "recipe": Recipe(epochs=1), "floors": False, "out": tmp_path}
    with pytest.raises(CohortError, match="exact_duplicates"):
        train_predictor(pictures, people, [Target("tone", "classes")], **given)  # type: ignore[arg-type]
    fitted = train_predictor(pictures, people, [Target("tone", "classes")], allow=["exact_duplicates"], **given)  # type: ignore[arg-type]
    assert fitted.leakage.filter(pl.col("severity") == "leak")["n"].sum() >= 1


def test_what_cannot_be_learnt_is_said(tmp_path: Path) -> None:
    pictures, people = cohort(20)
    given = {"network": SMALL, "preparation": Preparation((12, 12)), "out": tmp_path}
    with pytest.raises(CohortError, match="who is learnt from"):
        train_predictor(pictures, people.with_columns(split=pl.lit("test")), [Target("tone", "classes")], **given)  # type: ignore[arg-type]
    nowhere = people.with_columns(split=pl.when(split="train").then("split").otherwise(pl.lit("elsewhere")))
    with pytest.raises(CohortError, match="who is learnt from"):
        train_predictor(pictures, nowhere, [Target("tone", "classes")], **given)  # type: ignore[arg-type]
    assert not list(tmp_path.rglob("all_0*"))  # nothing was trained
    only = people.with_columns(tone=pl.when(pl.col("split") == "train").then(pl.lit("dark")).otherwise("tone"))
    with pytest.raises(TraitError, match="cannot be learnt"):
        train_predictor(pictures, only, [Target("tone", "classes")], **given)  # type: ignore[arg-type]
    with pytest.raises(FormatError, match="no predictor"):
        predict(tmp_path / "nothing", pictures)


def test_networks_are_asked_where_they_run_best(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine with a GPU they are moved there before they are asked (here: to torch's device without numbers)."""
    monkeypatch.setattr(supervised, "choose_device", lambda: torch.device("meta"))
    asked = []

    def outputs_of(model: torch.nn.Module, *_: object) -> np.ndarray:
        asked.append({parameter.device.type for parameter in model.parameters()})
        return np.zeros((3, 1))

    monkeypatch.setattr(supervised, "outputs_of", outputs_of)
    coded = code((Target("size", "number"),), pl.DataFrame({"size": [1.0, 3.0]}), np.arange(2))
    networks = [torch.nn.Linear(2, 1), torch.nn.Linear(2, 1)]
    said = supervised.answers(networks, np.zeros((3, 1, 4, 4)), np.arange(3), coded, Preparation((4, 4)), Recipe())
    assert asked == [{"meta"}, {"meta"}]
    assert_allclose(said["size"], 2.0)


def test_networks_are_taught_and_asked_with_the_threads_that_were_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, set[int]] = {"loss": set(), "outputs_of": set()}

    def noted(name: str) -> None:
        plain = getattr(supervised, name)

        def told(*args: object, **named: object) -> object:
            seen[name].add(torch.get_num_threads())
            return plain(*args, **named)

        monkeypatch.setattr(supervised, name, told)

    noted("loss")
    noted("outputs_of")
    pictures, people = cohort(60)
    given = {"network": SMALL, "preparation": Preparation((12, 12)), "recipe": Recipe(epochs=1, batch=16), "floors": False}
    train_predictor(pictures, people, [Target("tone", "classes")], out=tmp_path, threads=2, **given)  # type: ignore[arg-type]
    assert seen["loss"] == {2}
    assert 2 in seen["outputs_of"]
    seen["outputs_of"].clear()
    predict(tmp_path, pictures[:4], threads=3)
    assert seen["outputs_of"] == {3}


def test_balanced_networks_say_probabilities_of_the_training_rows() -> None:
    """Bayes: what a balanced network says, at the odds of the training rows; a network that knows nothing says the shares."""
    people = pl.DataFrame({"tone": ["dark"] * 90 + ["light"] * 10, "size": np.arange(100.0)})
    coded = code([Target("tone", "classes"), Target("size", "number")], people, np.arange(100))
    outputs = np.column_stack([np.zeros(3), np.array([0.0, np.log(9), 5.0]), np.zeros(3)])
    said = decode(outputs, coded, balanced=True)
    assert_allclose(said["tone"][:2], [[0.9, 0.1], [0.5, 0.5]])
    assert_allclose(said["tone"].sum(axis=1), 1.0)
    assert_allclose(said["size"], 49.5)
    assert_allclose(decode(outputs, coded)["tone"][:2], [[0.5, 0.5], [0.1, 0.9]])
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4000, generator=generator)
    truth = (torch.rand(4000, generator=generator) < torch.sigmoid(x - 3)).float()  # rare
    table = pl.DataFrame({"ill": truth.int().numpy()})
    coded = code([Target("ill", "classes")], table, np.arange(4000))
    weights = torch.zeros(2, 2, requires_grad=True)
    optimiser = torch.optim.LBFGS([weights], max_iter=100)
    inputs = torch.stack([torch.ones(4000), x], dim=1)

    def step() -> float:
        optimiser.zero_grad()
        found = loss(inputs @ weights, truth[:, None], coded, balance=True)
        found.backward()  # type: ignore[no-untyped-call]
        return float(found.detach())

    optimiser.step(step)  # type: ignore[no-untyped-call]
    outputs = (inputs @ weights).detach().numpy()
    assert abs(decode(outputs, coded, balanced=True)["ill"][:, 1].mean() - float(truth.mean())) < 0.01
    assert decode(outputs, coded)["ill"][:, 1].mean() > 0.3


def told(people: pl.DataFrame, light: np.ndarray) -> pl.DataFrame:
    return people.with_columns(pl.Series("predicted:tone:dark", 1 - light), pl.Series("predicted:tone:light", light)).drop("size")


def test_thresholds_are_chosen_on_validation_or_stay_at_a_half() -> None:
    people = cohort(120)[1]
    truth = (people["tone"] == "light").to_numpy()
    ranked = told(people, np.where(truth, 0.3, 0.1))
    ranked = ranked.filter(pl.col("split") != "train")
    assert threshold(ranked, "tone") == (0.3, "largest sensitivity + specificity (Youden) on 30 rows of the split 'validation'")
    assert threshold(ranked.filter(pl.col("split") != "test"), "tone").value == 0.5  # validation is judged
    one_class = threshold(ranked.filter((pl.col("split") == "test") | (pl.col("tone") == "dark")), "tone")
    assert one_class == (0.5, "one half: the validation rows are not of both classes")
    assert threshold(told(people, np.full(120, 0.4)), "tone").value == 0.5
    folds = threshold(told(cohort(120, folds=3)[1], np.where(truth, 0.3, 0.1)), "tone")
    assert folds == (0.5, "one half: in folds nothing is left to choose it on")


def test_every_floor_has_a_threshold_of_its_own() -> None:
    """A model of low probabilities and its low threshold do not make floors call everybody."""
    pictures, people = cohort(120)
    coded = code([Target("tone", "classes")], people, np.arange(60))
    model = told(people, np.where(people["tone"] == "light", 0.02, 0.01)).filter(pl.col("split") != "train")
    metrics = measured(pictures, people, model, {"all": coded}, {"tone": Cut(0.02, "")}, dims=2, floors=True, seed=0)
    assert value(metrics, "accuracy", "tone") == 1.0
    assert value(metrics, "accuracy", "tone", "pixels, logistic") > 0.7  # everybody called: the share of one class, a half


def test_preparation_scales_sides_independently_and_ignores_the_device() -> None:
    picture = np.random.default_rng(0).random((1, 20, 30))
    preparation = Preparation((10, 10))
    assert_allclose(prepared(picture, preparation), prepared(3 * picture + 7, preparation), atol=1e-4)
    assert_allclose(prepared(picture, preparation, still(2)), prepared(picture, preparation), atol=1e-6)
    fixed = prepared(np.full((1, 4, 4), 127.5), Preparation((4, 4), normalise=(127.5, 127.5)))
    assert_allclose(fixed, 0.0)


def test_two_processes_teach_what_one_teaches_of_targets_that_few_rows_know() -> None:
    generator, rows = np.random.default_rng(3), np.arange(7)
    people = pl.DataFrame(
        {"tone": ["dark", "light", None, "light", None, None, "dark"], "size": [1.0, None, None, None, 2, None, 4]}
    )
    coded = code([Target("tone", "classes", weight=0.5), Target("size", "number")], people, rows)
    truth = encode(coded, people)
    outputs = torch.from_numpy(generator.normal(size=(7, 3)))

    def gradient(drawn: Drawn) -> torch.Tensor:
        """Of what one process is taught, by its share of the rows."""
        mine = outputs[drawn.rows].clone().requires_grad_()
        weight = torch.from_numpy(drawn.weight(np.isfinite(truth)))
        missed = loss(mine, torch.from_numpy(truth[drawn.rows]), coded, weight=weight, balance=True)
        (missed * len(drawn.rows) / 7).backward()
        assert mine.grad is not None
        return mine.grad

    one = gradient(Drawn(0, rows))
    for apart in ([0, 2, 4, 6], [2, 3, 5, 4], [1, 2, 3, 5]):  # the last know no number
        both = torch.zeros_like(one)
        for mine in (np.array(apart), np.setdiff1d(rows, apart)):
            both[mine] = gradient(Drawn(0, mine, rows))
        torch.testing.assert_close(both, one)
