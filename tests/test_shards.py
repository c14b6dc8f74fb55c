"""Drawing the rows of a table in blocks: those of a rank, and all that is drawn afterwards, are those of the whole."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from recgraph.shards import Rows, TablePart, _draw, new_table

normal = partial(nn.init.normal_, mean=0.0, std=0.02)


@pytest.mark.parametrize("sizes", [(1,), (15,), (16, 3), (47, 0, 65), (33, 100)])
@pytest.mark.parametrize("width", [1, 3, 8, 16])
@pytest.mark.parametrize("draw", [normal, lambda rows: rows.uniform_(-0.3, 0.3)])
def test_rows_drawn_in_blocks_are_those_of_the_whole(sizes: tuple[int, ...], width: int, draw: object) -> None:
    parts, n_rows = [TablePart(size, draw) for size in sizes], sum(sizes)  # type: ignore[arg-type]
    torch.manual_seed(5)
    first_values = torch.empty(n_rows, width).normal_()
    whole = new_table(width, parts).weight.detach()
    after = torch.rand(3)
    assert not torch.equal(whole, first_values)
    for own in (Rows(0, n_rows), Rows(0, n_rows // 2), Rows(n_rows // 3, n_rows - n_rows // 4), Rows(n_rows, n_rows)):
        torch.manual_seed(5)
        torch.empty(n_rows, width).normal_()
        mine = torch.empty(own.last - own.first, width)
        for each in ([TablePart(n_rows, nn.init.normal_)], parts):
            _draw(mine, own, each, 16)
        assert torch.equal(mine, whole[own.first : own.last])
        assert torch.equal(torch.rand(3), after)


def test_a_table_is_drawn_as_torch_does() -> None:
    torch.manual_seed(2)
    table = nn.Embedding(37, 8)
    nn.init.normal_(table.weight, 0.0, 0.02)
    torch.manual_seed(2)
    assert torch.equal(new_table(8, [TablePart(37, normal)]).weight, table.weight)
