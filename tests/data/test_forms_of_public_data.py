"""Files as public data sets come: their lists, quotes, separators, packed and missing parts."""

from __future__ import annotations

import gzip
import json
import logging
from pathlib import Path

import polars as pl
import pytest
import torch
from typer.testing import CliRunner

import recgraph as rg
from recgraph.cli.app import app
from recgraph.data.errors import (
    CorruptFileError,
    DataError,
    DelimiterError,
    MissingColumnError,
    MissingIdError,
    TimestampError,
)
from recgraph.graph.hetero import HeteroGraph
from recgraph.models import MEOWRec

LOG = "user_id,item_id,timestamp\n" + "".join(f"{u},{i},{u + i}\n" for u in range(6) for i in range(u, u + 4))


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return write(tmp_path, "log.csv", LOG)


def values_of(data: rg.Interactions, kind: str) -> list[str]:
    ids = HeteroGraph.from_interactions(data).nodes[kind].ids
    assert ids is not None
    return sorted(ids.values.to_list())


class TestLists:
    FILMS = "item_id,genres,country\n" + "".join(
        f"{i},{'Action|Sci-Fi' if i % 2 else 'Drama|Action'},{'New York' if i % 2 else 'New Zealand'}\n"
        for i in range(9)
    )

    def test_named_columns_are_lists_and_others_one_value(self, tmp_path: Path, log: Path) -> None:
        films = write(tmp_path, "films.csv", self.FILMS)
        data = rg.load_data(log, item_features=films, lists={"genres": "|", "country": ""})
        assert data.item_features is not None
        assert data.item_features["genres"][0].to_list() == ["Drama", "Action"]
        assert values_of(data, "genres") == ["Action", "Drama", "Sci-Fi"]
        assert values_of(data, "country") == ["New York", "New Zealand"]

    def test_blanks_around_and_empty_values_are_none(self, tmp_path: Path, log: Path) -> None:
        films = write(tmp_path, "films.tsv", "item_id\ttags\n0\tA, B ,,\n1\t\n2\t , \n")
        data = rg.load_data(log, item_features=films, lists={"tags": ","})
        assert data.item_features is not None
        assert data.item_features["tags"].to_list() == [["A", "B"], None, []]

    def test_words_of_what_looks_like_a_list_are_said(
        self, tmp_path: Path, log: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        films = write(tmp_path, "films.csv", self.FILMS)
        with caplog.at_level(logging.WARNING):
            HeteroGraph.from_interactions(rg.load_data(log, item_features=films))
        [said] = [record.getMessage() for record in caplog.records if "--list" in record.getMessage()]
        assert "'genres'" in said
        assert "--list 'genres=|'" in said

    def test_a_column_that_is_not_there_or_of_ids(self, tmp_path: Path, log: Path) -> None:
        films = write(tmp_path, "films.csv", self.FILMS)
        with pytest.raises(MissingColumnError, match="no column 'gender'; they have 'item_id', 'genres', 'country'"):
            rg.load_data(log, item_features=films, lists={"gender": "|"})
        with pytest.raises(DataError, match="column 'item_id' of the features holds List"):
            rg.load_data(log, item_features=films, lists={"item_id": "|"})

    def test_numbers_are_no_lists(self, tmp_path: Path, log: Path) -> None:
        films = write(tmp_path, "films.csv", "item_id,year\n0,1990\n")
        with pytest.raises(DataError, match="lists: column 'year' holds Int64, no texts"):
            rg.load_data(log, item_features=films, lists={"year": "|"})

    def test_lists_without_a_file_of_features_are_refused(self, log: Path) -> None:
        for data in (log, pl.read_csv(log)):
            with pytest.raises(ValueError, match="no file of features is given"):
                rg.load_data(data, lists={"genres": "|"})

    def test_on_the_command_line_and_in_a_card(self, tmp_path: Path, log: Path) -> None:
        write(tmp_path, "films.csv", self.FILMS)
        films = str(tmp_path / "films.csv")
        options = ["--data", str(log), "--item-features", films, "--list", "genres=|", "--list", "country="]
        small = ["--set", "max_epochs=1", "--set", "hidden_dim=8"]
        run = tmp_path / "run"
        result = CliRunner().invoke(app, ["train", "meowrec", *options, *small, "--out", str(run)])
        assert result.exit_code == 0, result.output
        record = json.loads((run / "record.json").read_text())
        assert record["data"]["settings"]["reading"]["lists"] == {"genres": "|", "country": ""}
        assert CliRunner().invoke(app, ["evaluate", str(run)]).exit_code == 0
        card = write(
            tmp_path,
            "shop.toml",
            'name = "shop"\ntitle = "shop"\ntask = "recommendation"\n[data]\nfile = "log.csv"\n'
            'item_features = "films.csv"\nlists = { genres = "|" }\n',
        )
        features = rg.load_dataset(str(card)).item_features
        assert features is not None
        assert features["genres"][1].to_list() == ["Action", "Sci-Fi"]

    def test_an_option_that_is_no_pair(self, log: Path, tmp_path: Path) -> None:
        options = ["--data", str(log), "--list", "genres", "--out", str(tmp_path / "run")]
        result = CliRunner().invoke(app, ["train", "popularity", *options])
        assert result.exit_code != 0
        assert "--list 'genres' is not COLUMN=SEPARATOR" in result.output + result.stderr


class TestQuotes:
    ROWS = "".join(f"{row % 50}\titem {row % 97}\t{row}\n" for row in range(2000))

    def plays(self, folder: Path) -> Path:
        rows = self.ROWS.splitlines(keepends=True)
        rows[100] = '0\t"Heroes\t100\n'
        rows[900] = '0\tlive 7"\t900\n'
        return write(folder, "plays.tsv", "user\titem\ttime\n" + "".join(rows))

    def test_rows_within_quotes_are_said(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        path = self.plays(tmp_path)
        with caplog.at_level(logging.WARNING):
            data = rg.load_data(path, timestamp="none")
        assert len(data) == 1200
        assert f"{path}, line 102: quotes make one row of 801 lines" in caplog.text
        assert "--no-quotes" in caplog.text

    def test_without_quotes_every_row_is_one(self, tmp_path: Path) -> None:
        data = rg.load_data(self.plays(tmp_path), quotes=False)
        assert len(data) == 2000
        assert '"Heroes' in data.items.values.to_list()
        assert len(rg.Interactions.from_tsv(self.plays(tmp_path), user="user", item="item", quotes=False)) == 2000

    def test_paired_quotes_within_a_field_name_the_option(self, tmp_path: Path) -> None:
        path = write(tmp_path, "plays.tsv", 'user\titem\n1\t"weird al" yankovic\n2\ta\n')
        with pytest.raises(CorruptFileError, match=r"line 2.*quotes=False \(--no-quotes\)"):
            rg.load_data(path)
        data = rg.load_data(path, quotes=False)
        assert '"weird al" yankovic' in data.items.values.to_list()

    def test_quotes_of_features_and_lines_of_errors(self, tmp_path: Path) -> None:
        log = write(tmp_path, "log.tsv", 'user\titem\ttime\n1\t"a\t1\n2\tb"\tx\n')
        with pytest.raises(TimestampError, match=r"line 3.*'x'"):
            rg.load_data(log, quotes=False)
        log = write(tmp_path, "log.tsv", "user\titem\n1\t1\n1\t2\n1\t3\n")
        titles = write(tmp_path, "titles.tsv", 'item\ttitle\n1\t\'open\n2\t"foo\n3\tclose"\n')
        data = rg.load_data(log, item_features=titles, quotes=False)
        assert data.item_features is not None
        assert data.item_features["title"].to_list() == ["'open", '"foo', 'close"']

    def test_a_saved_log_knows_that_it_has_none(self, tmp_path: Path) -> None:
        rg.load_data(self.plays(tmp_path), quotes=False).save(tmp_path / "saved")
        source = rg.Interactions.load(tmp_path / "saved").source
        assert not source.quotes
        assert source.line(1500) == 1502

    def test_a_review_of_few_lines_is_nothing_odd(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        path = write(tmp_path, "log.csv", 'user,item,text\n1,1,"one\ntwo\nthree"\n2,1,x\n')
        with caplog.at_level(logging.WARNING):
            assert len(rg.load_data(path)) == 2
        assert "quotes" not in caplog.text

    def test_not_of_frames_or_parquet(self, tmp_path: Path) -> None:
        frame = pl.DataFrame({"user": [1], "item": [1]})
        frame.write_parquet(tmp_path / "log.parquet")
        for data in (frame, tmp_path / "log.parquet"):
            with pytest.raises(ValueError, match="quotes = False"):
                rg.load_data(data, quotes=False)


class TestGraphs:
    def test_nested_features_make_no_nodes_that_cannot_be_read(self, tmp_path: Path, log: Path) -> None:
        rows = [
            {"item_id": i, "categories": [["Beauty", f"b{i % 2}"]], "images": [{"thumb": "x"}], "tags": [f"t{i % 2}"]}
            for i in range(9)
        ]
        films = write(tmp_path, "films.jsonl", "\n".join(json.dumps(row) for row in rows))
        data = rg.load_data(log, item_features=films)
        assert HeteroGraph.from_interactions(data).node_types == ["user", "item", "tags"]
        run = rg.fit(MEOWRec(hidden_dim=8), data.split(), seed=0, max_epochs=1)
        run.save(tmp_path / "run")
        assert len(rg.load(tmp_path / "run").recommend([0], k=2))
        with pytest.raises(DataError, match=r"'categories' of the item features holds List"):
            HeteroGraph.from_interactions(data, item_relations=["categories"])

    def test_a_column_of_users_and_of_items_alike(self, tmp_path: Path, log: Path) -> None:
        rows = "".join(f"{i},c{i % 2}\n" for i in range(9))
        users = write(tmp_path, "users.csv", "user_id,city\n" + rows)
        items = write(tmp_path, "items.csv", "item_id,city\n" + rows)
        graph = HeteroGraph.from_interactions(rg.load_data(log, user_features=users, item_features=items))
        assert graph.node_types == ["user", "item", "city", "user_city"]

    def test_a_graph_of_other_ids_is_said(self, caplog: pytest.LogCaptureFixture) -> None:
        graph = HeteroGraph.from_edge_lists(
            {"user": 3, "item": 3, "tag": 2}, {("item", "has", "tag"): torch.tensor([[0, 0], [1, 1], [2, 1]])}
        )
        frame = pl.DataFrame({"user": [1000, 1001], "item": [2000, 2001]})
        with caplog.at_level(logging.WARNING):
            rg.load_data(frame).with_features(graph=graph)
        assert "none of its 3 nodes 'item' is of the log, whose ids are such as 2000" in caplog.text
        assert "give ids=" in caplog.text
        texts = pl.DataFrame({"user": ["u0", "u1"], "item": ["i0", "i1"]})
        with pytest.raises(DataError, match=r"graph: its nodes 'user' are not matched: it has no ids"):
            rg.load_data(texts).with_features(graph=graph)


class TestSequences:
    def test_a_user_without_items(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        train = write(tmp_path, "train.txt", "0 1 2 3\n1 2 3\n2 1 3\n")
        test = write(tmp_path, "test.txt", "0 4\n1 1\n2 \n")
        options = {"train": train, "test": test, "format": "sequences"}
        with pytest.raises(MissingIdError, match=r"test.txt, line 3: user '2' has no item; .* missing_ids='drop'"):
            rg.Split.from_parts(**options)
        with caplog.at_level(logging.WARNING):
            split = rg.Split.from_parts(**options, missing_ids="drop")
        assert "1 users without an item are left out" in caplog.text
        assert len(split.interactions) == 7 + 2


class TestRecBole:
    INTER = "user_id:token\titem_id:token\ttimestamp:float\n"
    ITEMS = "item_id:token\tgenre:token_seq\n1\tAction Drama\n2\tDrama\n"

    def parts(self, folder: Path) -> dict[str, Path]:
        names = ("train", "valid", "test")
        return {
            name: write(folder, f"ml.{name}.inter", f"{self.INTER}7\t{n}\t{n}\n8\t{n}\t{n}\n")
            for n, name in enumerate(names, 1)
        }

    def test_parts_have_the_features_of_the_whole(self, tmp_path: Path) -> None:
        write(tmp_path, "ml.item", self.ITEMS)
        features = rg.Split.from_parts(**self.parts(tmp_path)).interactions.item_features
        assert features is not None
        assert features["genre"].to_list() == ["Action Drama", "Drama"]

    def test_features_by_hand_and_what_says_no_format(self, tmp_path: Path) -> None:
        path = write(tmp_path, "feat.item", self.ITEMS)
        log = write(tmp_path, "log.csv", "user_id,item_id\n7,1\n7,2\n")
        features = rg.load_data(log, item_features=path, lists={"genre": " "}).item_features
        assert features is not None
        assert features["genre"].to_list() == [["Action", "Drama"], ["Drama"]]
        with pytest.raises(ValueError, match=r"format of the features in .*u.info' cannot be told.*rename it to .csv"):
            rg.load_data(log, item_features=write(tmp_path, "u.info", self.ITEMS))

    def test_packed_and_several(self, tmp_path: Path) -> None:
        parts = self.parts(tmp_path)
        packed = tmp_path / "packed.inter.gz"
        packed.write_bytes(gzip.compress(parts["train"].read_bytes()))
        (tmp_path / "packed.item.gz").write_bytes(gzip.compress(self.ITEMS.encode()))
        data = rg.load_data(packed)
        assert len(data) == 2
        assert data.item_features is not None
        assert len(rg.load_data(str(tmp_path / "ml.*.inter"))) == 6
        assert len(rg.Interactions.from_recbole(packed)) == 2


class TestSeparators:
    def test_two_colons_before_what_texts_hold(self, tmp_path: Path) -> None:
        path = write(tmp_path, "r.dat", "1::James, Giant::5::978300760\n2::B::4::978300761\n")
        data = rg.load_data(path, names=["user", "item", "rating", "timestamp"])
        assert data.items.values.to_list() == ["James, Giant", "B"]

    def test_names_say_which(self, tmp_path: Path) -> None:
        path = write(tmp_path, "r.csv", "1\t2\tHello, World\t5\n2\t2\tA\t5\n")
        assert len(rg.load_data(path, names=["user", "item", "title", "rating"])) == 2
        with pytest.raises(DelimiterError, match="separated by ','; give another separator="):
            rg.load_data(path, names=["user", "item", "rating"])


def test_one_number_among_dates_is_the_culprit(tmp_path: Path) -> None:
    days = "".join(f"1,{day},2019-01-0{day}\n" for day in range(1, 6))
    path = write(tmp_path, "log.csv", f"user,item,time\n{days}1,9,0\n")
    with pytest.raises(TimestampError, match=r"line 7.*'0' cannot be read like those before"):
        rg.load_data(path)
    path = write(tmp_path, "log.csv", "user,item,time\n1,1,10\n1,2,11\n1,3,2019-01-01\n")
    with pytest.raises(TimestampError, match=r"line 4.*'2019-01-01'"):
        rg.load_data(path)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ('[{"user": 1, "item": 2}]', r"line 1: the line is not a JSON object; one list of all objects.*jq -c"),
        ('[\n  {"user": 1}\n]', r"line 1: the line is not JSON.*one list of all objects"),
        ("{'user': 1, 'item': 2}\n", r"line 1: the line is not JSON.*a dict of Python"),
    ],
)
def test_other_forms_of_json(tmp_path: Path, text: str, match: str) -> None:
    with pytest.raises(CorruptFileError, match=match):
        rg.load_data(write(tmp_path, "log.json", text))
