"""Names beside marks cover nothing."""

from __future__ import annotations

import re
from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from recgraph.pages.labels import Box, Spot, along, name_marks

ROOM = Box(58, 0, 420, 226)
SPOTS = st.builds(
    Spot,
    x=st.floats(58, 420),
    y=st.floats(0, 226),
    radius=st.sampled_from([3.5, 5.5]),
    spread=st.floats(0, 30),
    name=st.text("abc", max_size=40),
)


def drawn(texts: list[str]) -> list[tuple[str, Box]]:
    """Each name with what it covers, measured anew from the SVG."""
    found = []
    for text in texts:
        match = re.fullmatch(r'<text class="mark" x="([\d.-]+)" y="([\d.-]+)" text-anchor="(\w+)">(.*)</text>', text)
        assert match is not None
        x, y, width = float(match[1]), float(match[2]), 6.8 * len(match[4])
        left = x - {"start": 0.0, "middle": 0.5, "end": 1.0}[match[3]] * width
        found.append((match[4], Box(left, y - 8, left + width, y + 1)))
    return found


@given(st.lists(SPOTS, max_size=12))
def test_names_cover_no_other_name_no_mark_and_stay_inside(spots: list[Spot]) -> None:
    names = drawn(name_marks(spots, ROOM))
    assert len(names) <= sum(bool(spot.name) for spot in spots)
    for (_, box), (_, other) in combinations(names, 2):
        assert not box.meets(other)
    for _, box in names:
        assert box.left > ROOM.left - 0.1
        assert box.right < ROOM.right + 0.1
        assert not any(box.meets(spot.box) for spot in spots)


def test_a_lone_name_is_there_and_the_first_one_goes_first() -> None:
    one, other = Spot(200, 100, 3.5, 0, "one"), Spot(200, 100, 3.5, 0, "other" * 3)
    assert drawn(name_marks([one, other], ROOM))[0][0] == "one"
    assert drawn(name_marks([one], ROOM))[0][1].left > 200


def test_a_long_name_is_cut_more_where_there_is_no_room() -> None:
    wide, narrow = Box(0, 0, 420, 40), Box(180, 0, 300, 40)
    spot = Spot(200, 20, 3.5, 0, "abcdefghijklmnopqrstuvwxyz")
    assert [len(name) for room in (wide, narrow) for name, _ in drawn(name_marks([spot], room))] == [24, 12]


def test_names_avoid_lines() -> None:
    spot = Spot(200, 100, 3.5, 0, "one")
    ((_, box),) = drawn(name_marks([spot], ROOM, along([(200, 100), (400, 100)])))
    assert box.right < 200 or box.bottom < 99 or box.top > 101
    everywhere = [Box(0, 0, 420, 270)]
    assert len(name_marks([spot], ROOM, everywhere)) == 1
