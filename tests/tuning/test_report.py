"""The page of a study: it renders whatever the study holds, and needs nothing from elsewhere."""

from __future__ import annotations

import re
import shlex
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState, create_trial
from small_study import RANGES, sampled, synthetic, tune

from recgraph.data.split import Split
from recgraph.pages.charts import Choices, Scale, number
from recgraph.setting_texts import parse_settings
from recgraph.tuning.final import UNSEALED
from recgraph.tuning.finding import find_study
from recgraph.tuning.report import command, figures, page
from recgraph.tuning.storage import dashboard_of


def drawings(text: str) -> list[ElementTree.Element]:
    return [ElementTree.fromstring(found) for found in re.findall(r"<svg.*?</svg>", text, re.DOTALL)]


def headings(text: str) -> list[str]:
    return re.findall(r"<h3>(.*?)</h3>", text)


def check_alone(text: str) -> None:
    """Nothing is fetched: no script, no link, no address, no image, no import of a style sheet."""
    assert not re.search(r"https?:|//[a-z]|<script|<link|<img|<iframe|@import|url\(|\b(src|href)=", text)
    assert 'name="viewport"' in text
    assert "prefers-color-scheme: dark" in text


@pytest.mark.parametrize("n_objectives", [1, 2])
@pytest.mark.parametrize("n_trials", [0, 1, 3, 60])
def test_a_page_of_any_study_renders_and_needs_nothing(n_trials: int, n_objectives: int) -> None:
    study = sampled(n_trials, n_objectives)
    text = page(study, "study.journal")
    check_alone(text)
    assert "<h1>a &lt;study&gt;</h1>" in text
    assert "optuna-dashboard study.journal" in text
    rows = re.findall(r'<tr class="(\w+)"><td>(\d+)</td>', text)
    assert [int(number_) for _, number_ in rows] == [*reversed(range(n_trials))]
    assert all(float(value) == float(value) for value in re.findall(r'c[xy]="([^"]+)"', text))
    for drawing in drawings(text):
        assert drawing.get("aria-label")
    complete = [trial for trial in study.trials if trial.state == TrialState.COMPLETE]
    circles = [circle for drawing in drawings(text) for circle in drawing.iter("circle")]
    figures_with_points = n_objectives * (1 + len(RANGES)) + (n_objectives == 2)
    assert len(circles) == len(complete) * figures_with_points
    if not n_trials:
        assert "No trial is complete yet." in text
        assert "There is none yet." in text
    if n_trials == 60:
        best = study.best_trials
        assert sum(circle.get("class") in ("best", "front") for circle in circles) == len(best) * figures_with_points
        assert "its worker is gone" in text
        assert ("Pareto front: value 0 and value 1" in headings(text)) == (n_objectives == 2)
        assert ("Epochs of each trial" in headings(text)) == (n_objectives == 1)
        (importance, *_) = [d for d in drawings(text) if (d.get("aria-label") or "").startswith("Importance")]
        names = [each.text for each in importance.iter("text")][::2]
        assert names[0] == "learning_rate"
        assert sorted(filter(None, names)) == sorted(RANGES)
        assert "&lt;b&gt;&amp;" in text
        assert "<b>&" not in text


def test_all_trials_failed_or_alike() -> None:
    study = optuna.create_study(direction="maximize")
    study.add_trial(create_trial(state=TrialState.FAIL))
    assert "No trial is complete yet." in page(study)
    for value in (0.5, 0.5, 0.5, 0.5, float("inf")):
        study.add_trial(
            create_trial(value=value, params={"n_layers": 1}, distributions={"n_layers": RANGES["n_layers"]})
        )
    check_alone(page(study))


@pytest.fixture(scope="module")
def split() -> Split:
    return synthetic()


def test_the_page_of_a_tuned_model_says_how_to_train_the_best(split: Split, tmp_path: Path) -> None:
    source = {"dataset": "synthetic", "settings": {"split_seed": 4}}
    study = tune(split, tmp_path / "s", n_trials=2, test_seeds=2, source=source)
    text = (tmp_path / "s" / "study.html").read_text(encoding="utf-8")
    check_alone(text)
    assert [path.name for path in (tmp_path / "s").glob("*.html*")] == ["study.html"]
    (command,) = re.findall(r"<pre>(recgraph train.*?)</pre>", text, re.DOTALL)
    assert "recgraph train SASRec --dataset synthetic" in command
    assert "--seed 0" in command
    pairs = [pair.strip("'").replace("&#34;", '"') for pair in re.findall(r"--set (\S+)", command)]
    told = parse_settings(pairs)
    assert told["learning_rate"] == study.best_params["learning_rate"]
    assert (told["hidden_dim"], told["patience"], told["metric"], told["split_seed"]) == (8, None, "ndcg@10", 4)
    assert "Trial 1 and the default configuration" in text or "Trial 0" in text
    assert f"optuna-dashboard {tmp_path}/s/study.journal" in text
    with find_study(str(tmp_path / "s")) as (found, storage):
        assert found.study_name == "s"
        assert page(found, storage.dashboard).split("<dl>")[1] == text.split("<dl>")[1].partition("<!-- ")[0].rstrip()


@pytest.mark.parametrize("names", [("tuned",), ("tuned", "default")])
def test_the_page_says_what_was_tested(names: tuple[str, ...]) -> None:
    study = sampled(3)
    results = {name: {"keep": {"ndcg@10": {"mean": 0.1, "std": None}}} for name in names}
    study.set_user_attr(UNSEALED, [{"trial": 0, "n_seeds": 2, "at": "2026-01-01", "results": results}])
    text = page(study)
    assert ("Trial 0, which is the default configuration, trained with 2 seeds and" in text) == (len(names) == 1)
    assert ("Trial 0 and the default configuration, trained with 2 seeds each and" in text) == (len(names) == 2)
    assert ('<th scope="col">default</th>' in text) == (len(names) == 2)


def test_a_study_that_has_just_begun() -> None:
    study = optuna.create_study(study_name="new")
    space: dict[str, dict[str, str]] = {"searched": {}, "fixed": {}}
    study.set_user_attr("recgraph", {"model": "m:SASRec", "seed": 0, "split_hash": "5" * 64, "space": space})
    assert "<dt>model</dt><dd>SASRec</dd>" in page(study)


def test_the_command_quotes_what_a_storage_holds() -> None:
    study = sampled(3)
    study.set_user_attr("source", {"dataset": "; touch a", "settings": {"split": "$(touch b)"}})
    space = {"searched": {}, "fixed": {"; touch c": "`touch d`"}}
    study.set_user_attr("recgraph", {"model": "m:; touch e", "seed": "; touch f", "space": space})
    said = shlex.split(command(study, study.best_trial).replace("\\\n", ""))
    assert said[:7] == ["recgraph", "train", "; touch e", "--dataset", "; touch a", "--seed", "; touch f"]
    assert said[7:11] == ["--set", "split=$(touch b)", "--set", "; touch c=`touch d`"]


def test_a_study_is_found_in_a_storage(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/several.db"
    for name in ("one", "two"):
        optuna.create_study(study_name=name, storage=url)
    with find_study(url, "two") as (found, storage):
        assert (found.study_name, storage.dashboard) == ("two", url)
    with pytest.raises(ValueError, match=r"several studies; name one .*: one, two"), find_study(url):
        pass
    with pytest.raises(ValueError, match="there is no study 'three'"), find_study(url, "three"):
        pass
    with pytest.raises(ValueError, match="holds no study"), find_study(str(tmp_path)):
        pass
    with pytest.raises(FileNotFoundError, match="neither"), find_study(str(tmp_path / "not.journal")):
        pass
    assert not (tmp_path / "not.journal").exists()
    (tmp_path / "study.json").write_text('{"study": "s", "storage": "postgresql://me:***@host/db"}')
    with pytest.raises(ValueError, match="needs a password"), find_study(str(tmp_path)):
        pass


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("journal:////tmp/study.journal", "/tmp/study.journal"),
        ("sqlite:////tmp/study.db", "sqlite:////tmp/study.db"),
        ("postgresql://me:secret@host/db", "postgresql+psycopg://me:***@host/db"),
    ],
)
def test_what_the_dashboard_is_given(url: str, shown: str) -> None:
    assert dashboard_of(url) == shown


def test_axes() -> None:
    assert [text for _, text in Scale.of([0, 10]).ticks] == ["0", "5", "10"]
    assert [text for _, text in Scale.of([1e-4, 1e-1], log=True).ticks] == ["1e-4", "0.001", "0.01", "0.1"]
    assert Scale.of([1e-4, 1e-1], log=True).place(10**-2.5) == pytest.approx(0.5)
    assert [text for _, text in Scale.of([1, 2], whole=True).ticks] == ["1", "2"]
    assert Scale.of([3.0, 3.0]).place(3.0) == pytest.approx(0.5)
    assert Choices((None, True, 1)).place(1) == pytest.approx(5 / 6)
    assert [number(value) for value in (0.0, 3.0, 0.12345, 1.23456e-6, 123456.0)] == [
        "0",
        "3",
        "0.1235",
        "1.2e-6",
        "1.2e5",
    ]


def test_trees_that_explain_nothing_leave_the_page_whole() -> None:
    """Values that differ in their last digits alone; fANOVA then finds no variance to share out."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize")
    for value in [0.1] * 6 + [0.1 + 2e-17]:
        trial = study.ask({"a": optuna.distributions.FloatDistribution(0, 1)})
        study.tell(trial, value)
    assert len({trial.value for trial in study.trials}) == 2
    (figure,) = [figure for figure in figures(study, ["ndcg@10"]) if figure.group == "importance"]
    assert figure.svg == ""
    assert figure.note == "Needs four complete trials that differ in their settings and in their values."
