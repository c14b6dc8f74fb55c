"""Commands that are killed, and otherwise ill-treated: a sample of the cells that test_campaign.py makes all of."""

from __future__ import annotations

import pytest
from checking import Bench
from commands import COMMANDS, Command
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from table import CELLS, FAULTS, PAGE, Fault, cell, written

#: commands that are quick, as are those that make what they are given
_QUICK = [command for command in COMMANDS if command.cost == 1 and command.world != "board"]
#: faults of a training that are always in the sample
_OF_TRAINING = ("SIGINT", "second process")
#: a cell of so many is in the sample: no divisor of the number of faults, or else it would always be the same ones
_EACH = 5
#: cells of the sample: every fault, and every quick command
_SAMPLE = [
    (command, fault)
    for number, (command, fault) in enumerate(pair for pair in CELLS if pair[0] in _QUICK)
    if number % _EACH == 0 or (command.name == "train" and fault.name in _OF_TRAINING)
]


@pytest.mark.parametrize(("command", "fault"), _SAMPLE, ids=lambda value: value.name)
@given(data=st.data())
@settings(
    max_examples=1, phases=[Phase.generate], database=None, suppress_health_check=list(HealthCheck), deadline=None
)
def test_a_command_goes_on_after_a_fault(bench: Bench, command: Command, fault: Fault, data: st.DataObject) -> None:
    fault.check(bench, command, data.draw)


def test_the_sample_has_every_fault_and_every_quick_command() -> None:
    assert {fault.name for _, fault in _SAMPLE} == {fault.name for fault in FAULTS}
    assert {command.name for command, _ in _SAMPLE} == {command.name for command in _QUICK}


def test_the_page_has_the_table() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page == written(page), "write it again: python tests/faults/table.py"


def test_a_cell_without_a_case_says_why() -> None:
    names = {command.name for command in COMMANDS}
    assert {name for fault in FAULTS for name in fault.without} <= names
    for command in COMMANDS:
        assert any(cell(command, fault) is None for fault in FAULTS)
        assert all(reason is None or len(reason) > 20 for reason in (cell(command, fault) for fault in FAULTS))
