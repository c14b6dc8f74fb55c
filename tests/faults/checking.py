"""What holds in a cell of the table: what was finished is kept, nothing half-written passes, the command goes on."""

from __future__ import annotations

import json
import re
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from commands import POSTGRES, WORLDS, Command, write_world
from disks import Disk, refused
from driving import LONG, Call, Child, Done, Driver
from injecting import CHANGES, CLOCK_BACK, COUNT, INTERRUPT, KILL, NO_MEMORY, PAUSE, Event, Harm
from outcomes import LOCKS, leftovers

#: bytes; what the smallest file takes of a disk
_PAGE = 4096
#: bytes that a file may always have: what a command prints gets into files, too
_LEAST = 2048
#: what a message says to do next
_NEXT = re.compile(
    r"\b(again|resume|go on|goes on|give|choose|remove|delete|copy|restore|free|wait|use|update|fit|make|put|write)\b"
)


@dataclass(frozen=True)
class Reference:
    """A command that nothing happened to.

    Attributes:
        result: what came of it.
        read: what the reader may print: of the result, and of what was there before.
        done: how it ended.
        room: bytes of disk that it took.
        largest: bytes of the largest file that it wrote.
    """

    result: Any
    read: tuple[str, ...]
    done: Done
    room: int
    largest: int


class Bench:
    """A folder in which one case after another is made, each from the files that its command is given.

    All are made at one place, so that what they write about it is equal.

    Args:
        driver: runs the children.
        folder: of the cases.
    """

    def __init__(self, driver: Driver, folder: Path) -> None:
        self.driver, self._folder = driver, folder
        self._place = folder / "case"
        self._disk: Disk | None = None
        self.postgres: str | None = None
        self._worlds: dict[str, Path] = {}
        self._references: dict[str, Reference] = {}
        self.kills: Counter[str] = Counter()
        self.damages: Counter[str] = Counter()
        self.left: Counter[str] = Counter()

    @property
    def case(self) -> Path:
        """Where this process sees the place of the cases."""
        return self._place if self._disk is None else self._disk.case

    @contextmanager
    def on_its_own_disk(self) -> Iterator[Disk]:
        """Within the block the place of the cases lies on a disk of its own."""
        if why := refused():
            pytest.skip(why)
        with Disk(self._folder, self._place) as self._disk:
            try:
                yield self._disk
            finally:
                self._disk = None

    def give(self, world: str) -> None:
        """Put the files of a world in the place of the last case."""
        if world not in self._worlds:
            self._make(world)
        self._clear()
        shutil.copytree(self._worlds[world], self.case, dirs_exist_ok=True, symlinks=True)

    def _clear(self) -> None:
        self.case.mkdir(exist_ok=True)
        for path in self.case.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _make(self, world: str) -> None:
        parent, calls = WORLDS[world]
        if parent is None:
            self._clear()
            write_world(self.case)
        else:
            self.give(parent)
        for call in calls:
            if world == "stopped":
                self._stop(call)
                continue
            done = self.run(call)
            assert done.code == 0, done.error
        self._worlds[world] = self._folder / f"world-{world}"
        shutil.copytree(self.case, self._worlds[world], symlinks=True)

    def _stop(self, call: Call) -> None:
        """Kill a training as it writes its record, which is its last file but for the bundle's."""
        count = self.run(call).seen.count(Event.RENAME)
        self.give("log")
        done = self.run(call, replace(KILL, kinds=Event.RENAME), count - 4)
        assert done.code < 0
        assert list(self.case.glob("run/checkpoints/step-*"))

    def run(self, call: Call, harm: Harm = COUNT, at: int = 0, **more: Any) -> Done:
        """Run a call in the place of the cases, see :meth:`Driver.run`."""
        return self.start(call, harm, at, **more).end()

    def start(self, call: Call, harm: Harm = COUNT, at: int = 0, **more: Any) -> Child:
        """Start a call in the place of the cases."""
        return self.driver.start(self._call(call), self._place, harm, at, disk=self._disk, **more)

    def _call(self, call: Call) -> Call:
        if call.function != "app" or self.postgres is None:
            return call
        return replace(call, arguments=([word.replace(POSTGRES, self.postgres) for word in call.arguments[0]],))

    def begin(self, command: Command) -> Reference:
        """Give a command its files -> what comes of it when nothing happens."""
        if command.name not in self._references:
            self._references[command.name] = self._reference(command)
        self._start_from_nothing(command)
        return self._references[command.name]

    def _reference(self, command: Command) -> Reference:
        self._start_from_nothing(command)
        before = [] if command.reader is None else [self.run(command.reader)]
        self._start_from_nothing(command)
        given = self._sizes()
        done = self.run(command.call)
        assert done.code == 0, done.error
        written = {path: size for path, size in self._sizes().items() if given.get(path) != size}
        result = self.result(command, done)
        assert result
        after = [] if command.reader is None else [self.run(command.reader)]
        assert all(read.code == 0 for read in after), after
        assert not leftovers(self.case)
        read = tuple(read.output for read in (*before, *after) if read.code == 0)
        room = sum(-(-size // _PAGE) * _PAGE for size in written.values())
        return Reference(result, read, done, room, max(written.values(), default=0))

    def _sizes(self) -> dict[Path, int]:
        return {path: path.stat().st_size for path in self.case.rglob("*") if path.is_file()}

    def _start_from_nothing(self, command: Command) -> None:
        if self.postgres is not None and "PostgreSQL" in command.name:
            _delete_study(self.postgres)
        self.give(command.world)

    def result(self, command: Command, done: Done) -> Any:
        """What came of a command."""
        return [command.result(self.case), done.output if command.prints else ""]

    def goes_on(self, command: Command, reference: Reference, what: str) -> None:
        """The same command goes on, and ends with the same result."""
        done = self.run(command.next)
        if done.code == 2 and command.once:  # what is there already is complete
            self.is_told(done, what, about=command.makes)
        else:
            assert done.code == 0, f"{what}: {command.next} does not go on: {done.error}"
        result = self.result(command, done)
        assert result == reference.result, (
            f"{what}: {command.next} ends with another result: {_differ(result, reference.result)}"
        )
        left = leftovers(self.case)
        self.left[command.name] += bool(left)
        assert not left, f"{what}: {command.next} leaves {left}"

    def read_back(self, command: Command, reference: Reference, what: str) -> None:
        """What reads the result takes nothing half-written for whole."""
        if command.reader is None:
            return
        done = self.run(command.reader)
        if done.code == 0:
            assert done.output in reference.read, f"{what}: {command.reader} gives something else"
        else:
            self.is_told(done, what, names=False)

    def is_told(self, done: Done, what: str, names: bool = True, about: tuple[str, ...] = ()) -> None:
        """The message of a command that failed is one, names a file, and the next step."""
        assert done.code in (1, 2, 130), f"{what}: ends with {done.code}: {done.error}"
        message = " ".join(done.error[done.error.rfind("recgraph: ") :].split())
        assert "Traceback" not in done.error, f"{what}: {done.error}"
        assert "unexpected " not in message, f"{what}: {message}"
        if names:
            assert any(name in message for name in about), f"{what}: the message names no file: {message}"
        assert _NEXT.search(message), f"{what}: the message says no next step: {message}"


def _differ(one: Any, other: Any) -> str:
    if isinstance(one, dict) and isinstance(other, dict):
        names = [name for name in {**one, **other} if one.get(name) != other.get(name)]
        return ", ".join(f"{name}: {_differ(one.get(name), other.get(name))}" for name in names)
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return "; ".join(_differ(a, b) for a, b in zip(one, other, strict=True) if a != b)
    return f"{str(one)[:200]} != {str(other)[:200]}"


def _delete_study(url: str) -> None:
    import optuna

    from recgraph.tuning.storage import open_storage

    storage = open_storage(url)
    if "s" in optuna.get_all_study_names(storage.optuna):
        optuna.delete_study(study_name="s", storage=storage.optuna)
    storage.close()


def check_signal(bench: Bench, command: Command, harm: Harm, moments: list[float]) -> None:
    """Killed, perhaps again as it goes on, at a share of the events of the whole command; then it goes on."""
    reference = bench.begin(command)
    call, what = command.call, ""
    for moment in moments:
        at = 1 + int(moment * reference.done.seen.count(harm.kinds))
        done = bench.run(call, harm, at)
        what = f"{command.name}, {harm.name} at {at}: {done.seen.what}"
        bench.kills[command.name] += bool(done.seen.what)
        if harm is INTERRUPT and done.code == 130:
            bench.is_told(done, what, names=False)
        elif done.code == 2 and command.once:  # it was killed with all done
            bench.is_told(done, what, about=command.makes)
        else:
            assert done.code in (0, -harm.value), f"{what}: {done.code}, {done.error}"
        bench.read_back(command, reference, what)
        call = command.next
    bench.goes_on(command, reference, what)


def check_error(bench: Bench, command: Command, harm: Harm, moment: float) -> None:
    """Its calls fail from an event on; it says so, and goes on when they no longer do."""
    reference = bench.begin(command)
    at = 1 + int(moment * reference.done.seen.count(harm.kinds))
    done = bench.run(command.call, harm, at)
    what = f"{command.name}, {harm.name} from {at} on: {done.seen.what}"
    if done.code < 0 and harm is NO_MEMORY:
        pass  # a library that cannot do without, such as a kernel of torch, ends the process: that is a kill
    elif done.code:
        bench.is_told(done, what, names=bool(harm.kinds & CHANGES), about=_names(command, done))
    else:
        assert bench.result(command, done) == reference.result, f"{what}: ends well, with another result"
    bench.read_back(command, reference, what)
    bench.goes_on(command, reference, what)


def check_file_limit(bench: Bench, command: Command, share: float, dies: bool) -> None:
    """No file may become larger than a share of its largest: it says so, or is killed by it, and then goes on."""
    reference = bench.begin(command)
    limit = max(int(share * reference.largest), _LEAST)
    done = bench.run(command.call, file_limit=limit, dies_of_it=dies)
    what = f"{command.name}, files of at most {limit} bytes"
    if done.code == -signal.SIGXFSZ:
        assert dies
        bench.kills[command.name] += 1
    else:
        _is_told_or_well(bench, command, reference, done, what)
    bench.read_back(command, reference, what)
    bench.goes_on(command, reference, what)


def check_small_disk(bench: Bench, command: Command, share: float) -> None:
    """The disk has room for a share of what it writes: it says so, and goes on when there is room again."""
    with bench.on_its_own_disk() as disk:
        reference = bench.begin(command)
        room = int(share * reference.room)
        disk.leave(room)
        done = bench.run(command.call)
        disk.leave(None)
        what = f"{command.name}, {room} bytes left on the disk"
        _is_told_or_well(bench, command, reference, done, what)
        bench.read_back(command, reference, what)
        bench.goes_on(command, reference, what)


def check_read_only_mount(bench: Bench, command: Command) -> None:
    """Nothing can be written where it works: it says so, and goes on when it can."""
    with bench.on_its_own_disk() as disk:
        reference = bench.begin(command)
        disk.write(False)
        done = bench.run(command.call)
        disk.write(True)
        what = f"{command.name}, on a read-only mount"
        _is_told_or_well(bench, command, reference, done, what)
        bench.read_back(command, reference, what)
        bench.goes_on(command, reference, what)


def _is_told_or_well(bench: Bench, command: Command, reference: Reference, done: Done, what: str) -> None:
    """It failed with a message about a file that it makes, or ended with the result of all."""
    if done.code:
        bench.is_told(done, what, about=command.makes)
    else:
        assert bench.result(command, done) == reference.result, f"{what}: ends well, with another result"


def _names(command: Command, done: Done) -> tuple[str, ...]:
    """The names that a message may call a file by that could not be written."""
    return (*command.makes, Path(done.seen.what).name)


def check_second(bench: Bench, command: Command, moment: float) -> None:
    """A second process begins the same while the first is at work: one does it, the other does or is refused."""
    reference = bench.begin(command)
    at = 1 + int(moment * reference.done.seen.count(PAUSE.kinds))
    first = bench.start(command.call, PAUSE, at)
    first.until_it_stops()
    second = bench.start(command.next)
    ended = second.wait(1.0)
    first.go_on()
    one, other = first.end(), ended or second.end()
    what = f"{command.name}, a second one at {at}: {one.seen.what}"
    for done in (one, other):
        if done.code:
            bench.is_told(done, what, about=command.makes)
    assert 0 in (one.code, other.code), f"{what}: {one.error} {other.error}"
    bench.goes_on(command, reference, what)


def check_clock(bench: Bench, command: Command, moment: float) -> None:
    """The clock is set back by a day while it works: it ends with the same result."""
    reference = bench.begin(command)
    at = 1 + int(moment * reference.done.seen.count(CLOCK_BACK.kinds))
    done = bench.run(command.call, CLOCK_BACK, at)
    what = f"{command.name}, clock set back at {at}: {done.seen.what}"
    assert done.code == 0, f"{what}: {done.error}"
    assert bench.result(command, done) == reference.result, f"{what}: ends with another result"


def check_damage(bench: Bench, command: Command, damage: Callable[[Path], None], choice: float) -> None:
    """A file that it reads is damaged: it refuses it by name, or does without it and ends with the same result."""
    reference = bench.begin(command)
    found = sorted({path for pattern in command.damaged for path in bench.case.glob(pattern) if path.is_file()})
    files = [
        path for path in found if path.stat().st_size and not re.search(LOCKS, path.relative_to(bench.case).as_posix())
    ]
    path = files[int(choice * len(files))]
    name = path.relative_to(bench.case).as_posix()
    damage(path)
    bench.damages[command.name] += 1
    done = bench.run(command.call)
    what = f"{command.name}, {name} damaged"
    if done.code == 0:
        result = bench.result(command, done)
        assert result == reference.result, f"{what}: ends with another result: {_differ(result, reference.result)}"
    else:
        bench.is_told(done, what, about=(path.name, path.parent.name, name))


def check_reload(bench: Bench, command: Command, damage: Callable[[Path], None], choice: float) -> None:
    """A file of a bundle that takes the place of a served one is damaged: it is refused by name, or is as good."""
    assert command.served is not None
    reference = bench.begin(command)
    service = bench.start(Call("calls", "reload", (command.served,)))
    _wait_for(bench.case / "ready")
    assert bench.run(command.call).code == 0
    files = sorted(path for path in (bench.case / command.served).rglob("*") if path.is_file())
    path = files[int(choice * len(files))]
    whole = path.read_bytes()
    damage(path)
    bench.damages[command.name] += 1
    (bench.case / "go").touch()
    told = _told(service)
    what = f"{command.name}, {path.name} damaged"
    if _is_as_good(path, whole):
        path.write_bytes(whole)
        undamaged = _told(bench.start(Call("calls", "reload", (command.served,))))
        assert (told["outcome"], told["lists"]) == ("loaded", undamaged["lists"]), f"{what}: {told}"
    else:
        assert told["outcome"] == "refused", f"{what}: {told}"
        assert path.name in told["error"], f"{what}: {told['error']}"
    assert reference.result


def _is_as_good(path: Path, whole: bytes) -> bool:
    """Whether a damaged JSON file still says the same: its last byte is the end of a line."""
    try:
        return path.suffix == ".json" and bool(json.loads(path.read_bytes()) == json.loads(whole))
    except (OSError, ValueError):
        return False


def check_reload_after_kill(bench: Bench, command: Command, harm: Harm, moment: float) -> None:
    """A process that replaces a served bundle is killed: the service goes on, and has the old one or the new."""
    assert command.served is not None
    reference = bench.begin(command)
    service = bench.start(Call("calls", "reload", (command.served,)))
    _wait_for(bench.case / "ready")
    at = 1 + int(moment * reference.done.seen.count(harm.kinds))
    done = bench.run(command.call, harm, at)
    bench.kills[command.name] += bool(done.seen.what)
    (bench.case / "go").touch()
    told = _told(service)
    what = f"{command.name}, {harm.name} at {at}: {done.seen.what}"
    assert told["outcome"] in ("loaded", "unchanged"), f"{what}: {told}"


def _wait_for(path: Path) -> None:
    until = time.monotonic() + LONG
    while not path.exists():
        assert time.monotonic() < until, f"no {path.name}"
        time.sleep(0.005)


def _told(service: Child) -> Any:
    done = service.end()
    assert done.code == 0, done.error
    found = json.loads(done.output)
    assert found["lists"], "it recommends nothing"
    return found
