"""Every cell of the table, with moments that Hypothesis chooses: ``make test-faults``."""

from __future__ import annotations

import pytest
from checking import Bench
from commands import Command
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from table import CELLS, Fault

pytestmark = [pytest.mark.faults, pytest.mark.slow]

#: of a whole campaign, at least
_KILLS, _DAMAGES = 200, 100


@pytest.mark.parametrize(("command", "fault"), CELLS, ids=lambda value: value.name)
def test_cell(request: pytest.FixtureRequest, bench: Bench, command: Command, fault: Fault) -> None:
    if "PostgreSQL" in command.name:
        bench.postgres = request.getfixturevalue("postgres")

    @given(data=st.data())
    @settings(
        max_examples=max(1, fault.examples // command.cost),
        phases=[Phase.generate],
        database=None,
        derandomize=False,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
        deadline=None,
    )
    def campaign(data: st.DataObject) -> None:
        fault.check(bench, command, data.draw)

    campaign()


def test_the_campaign_is_large(request: pytest.FixtureRequest, bench: Bench) -> None:
    if sum(item.name.startswith("test_cell[") for item in request.session.items) < len(CELLS):
        pytest.skip("a part of the campaign")
    assert bench.kills.total() >= _KILLS
    assert bench.damages.total() >= _DAMAGES
