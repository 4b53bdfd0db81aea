"""What `append` returned True for is read back once, whatever happens to writer and readers."""

from __future__ import annotations

import errno
import os
import random
import signal
import stat
import subprocess
import sys
import threading
import zlib
from collections import Counter
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dspex_ray.core.ids import NewId, id_source
from dspex_ray.settings import SpoolSettings
from dspex_ray.traces.model import ExecutionRecord, SpoolRecord
from dspex_ray.traces.spool import SpoolReader, SpoolWriter, decode, encode, spool_figures
from tests.unit.traces.records import (
    NOW,
    FixedClock,
    a_call,
    a_feedback,
    a_record,
    an_attempt,
    records,
)

SETTINGS = SpoolSettings()


def _ids(seed: int = 1) -> NewId:
    return id_source(FixedClock(), random.Random(seed).getrandbits)


def _writer(folder: Path, settings: SpoolSettings = SETTINGS) -> SpoolWriter:
    return SpoolWriter(folder, settings, FixedClock(), _ids())


def _drained(folder: Path, reader: SpoolReader | None = None) -> list[SpoolRecord]:
    reader = reader or SpoolReader(folder)
    found: list[SpoolRecord] = []
    for segment in reader.claim():
        found += reader.read(segment)
        reader.done(segment)
    return found


def _names(folder: Path) -> list[str]:
    return sorted(path.suffix for path in folder.iterdir())


@given(records())
@settings(max_examples=50)
def test_a_line_is_read_back_as_the_record(record: ExecutionRecord) -> None:
    assert decode(encode(record)) == record


def test_content_keeps_its_nulls_and_big_numbers() -> None:
    content = {"a": None, "n": 10**30, "text": "é\x00\n", "deep": [{"x": [None]}]}
    record = a_record(1, a_call(an_attempt(), request=content), inputs=content, capture="full")
    assert decode(encode(record)) == record


def test_records_come_back_in_order_and_the_folder_is_private(tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    writer = _writer(folder)
    wanted = [a_record(n) for n in range(5)]
    assert all(writer.append(record) for record in wanted)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert [stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()] == [0o600]
    writer.rotate()
    assert _drained(folder) == wanted
    assert _names(folder) == []


def test_a_segment_in_use_is_not_claimed(tmp_path: Path) -> None:
    writer = _writer(tmp_path)
    writer.append(a_record())
    assert _drained(tmp_path) == []
    writer.close()
    assert _drained(tmp_path) == [a_record()]


def test_rotation_by_size(tmp_path: Path) -> None:
    writer = _writer(tmp_path, SpoolSettings(rotate_bytes=1_000))
    for n in range(20):
        assert writer.append(a_record(n))
    assert _names(tmp_path).count(".ready") >= 4


def test_a_segment_waits_open_while_the_one_before_it_is_undrained(tmp_path: Path) -> None:
    writer = _writer(tmp_path)
    for n in range(3):
        writer.append(a_record(n))
        writer.rotate()
    assert _names(tmp_path) == [".open", ".ready"]
    assert _drained(tmp_path) == [a_record(0)]
    writer.rotate()
    assert _drained(tmp_path) == [a_record(1), a_record(2)]


def test_rotating_nothing_makes_no_file(tmp_path: Path) -> None:
    _writer(tmp_path).rotate()
    assert _names(tmp_path) == []


@pytest.mark.parametrize("cut", [1, 5, 17, 30])
def test_a_torn_end_is_counted_and_the_rest_is_read(tmp_path: Path, cut: int) -> None:
    line = encode(a_record(2))
    path = tmp_path / f"{_ids()()}.open"
    path.write_bytes(encode(a_record(1)) + line[:-cut])
    reader = SpoolReader(tmp_path)
    assert _drained(tmp_path, reader) == [a_record(1)]
    assert (reader.torn, reader.corrupt, _names(tmp_path)) == (1, 0, [])


@given(st.integers(0, 10_000), st.integers(1, 255))
@settings(max_examples=60)
def test_a_changed_byte_costs_at_most_two_records(
    tmp_path_factory: pytest.TempPathFactory, place: int, change: int
) -> None:
    folder = tmp_path_factory.mktemp("spool")
    wanted = [a_record(n) for n in range(4)]
    content = bytearray(b"".join(encode(record) for record in wanted))
    content[place % len(content)] ^= change
    (folder / f"{_ids()()}.ready").write_bytes(content)
    reader = SpoolReader(folder)
    found = _drained(folder, reader)
    assert all(record in wanted for record in found)
    # A changed newline joins two lines; at the very end it looks like a torn one.
    assert len(found) >= 2
    assert reader.corrupt + reader.torn >= 1
    assert _names(folder) == ([".bad"] if reader.corrupt else [])


def test_a_record_of_another_schema_is_set_aside(tmp_path: Path) -> None:
    line = encode(a_record(1))
    body = line[18:-1].replace(b'"schema":1', b'"schema":2')
    framed = b"%08x %08x %b\n" % (len(body), zlib.crc32(body), body)
    (tmp_path / f"{_ids()()}.ready").write_bytes(framed + encode(a_record(2)))
    assert _drained(tmp_path) == [a_record(2)]
    assert _names(tmp_path) == [".bad"]


def test_content_that_json_cannot_hold_is_left_out_of_the_record(tmp_path: Path) -> None:
    writer = _writer(tmp_path)
    bad = {"text": "\ud800"}
    call = a_call(an_attempt(), response=bad)
    assert writer.append(a_record(1, call, outputs=bad, inputs={"a": 1}, capture="full"))
    writer.close()
    assert _drained(tmp_path) == [a_record(1, a_call(an_attempt()))]


def test_feedback_is_spooled_too_unless_json_cannot_hold_it(tmp_path: Path) -> None:
    writer = _writer(tmp_path)
    assert writer.append(a_feedback(1, expected={"a": None}))
    assert not writer.append(a_feedback(2, expected={"a": "\ud800"}))
    writer.close()
    assert writer.lost == 1
    assert _drained(tmp_path) == [a_feedback(1, expected={"a": None})]


def test_a_full_folder_loses_records_until_it_is_drained(tmp_path: Path) -> None:
    clock = FixedClock()
    settings = SpoolSettings(max_bytes=1_000_000)
    writer = SpoolWriter(tmp_path, settings, clock, _ids())
    big = {"text": "x" * 300_000}
    kept = [writer.append(a_record(n, inputs=big, capture="full")) for n in range(5)]
    assert kept == [True, True, True, False, False]
    assert writer.lost == 2
    writer.close()
    assert len(_drained(tmp_path)) == 3
    clock.seconds += 5
    assert writer.append(a_record(9))


def test_a_disk_error_is_counted_and_never_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = _writer(tmp_path)
    assert writer.append(a_record(1))

    def full(fd: int, line: bytes) -> int:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(os, "write", full)
    assert not writer.append(a_record(2))
    monkeypatch.undo()
    assert writer.append(a_record(3))
    writer.close()
    assert writer.lost == 1
    assert _drained(tmp_path) == [a_record(1), a_record(3)]


def test_a_write_cut_short_leaves_no_torn_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = _writer(tmp_path)
    assert writer.append(a_record(1))
    whole = os.write
    monkeypatch.setattr(os, "write", lambda fd, line: whole(fd, line[:40]))
    assert not writer.append(a_record(2))
    monkeypatch.undo()
    assert writer.append(a_record(3))
    writer.close()
    reader = SpoolReader(tmp_path)
    assert _drained(tmp_path, reader) == [a_record(1), a_record(3)]
    assert (reader.torn, reader.corrupt) == (0, 0)


def test_a_folder_that_cannot_be_made_loses_the_record(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    writer = _writer(tmp_path / "file" / "spool")
    assert not writer.append(a_record())
    assert writer.lost == 1


def test_threads_share_a_writer(tmp_path: Path) -> None:
    writer = _writer(tmp_path, SpoolSettings(rotate_bytes=5_000))

    def work(start: int) -> None:
        for n in range(start, start + 100):
            assert writer.append(a_record(n))
            if n % 10 == 0:
                writer.rotate()

    threads = [threading.Thread(target=work, args=(n * 1_000,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.close()
    found = Counter(record.id for record in _drained(tmp_path))
    assert len(found) == 400
    assert set(found.values()) == {1}


def test_two_drains_share_a_folder_and_take_nothing_twice(tmp_path: Path) -> None:
    writer = _writer(tmp_path, SpoolSettings(rotate_bytes=1_000))
    found: Counter[UUID] = Counter()
    stop = threading.Event()
    lock = threading.Lock()

    def drain() -> None:
        last = False
        while not last:
            last = stop.is_set()
            taken = Counter(record.id for record in _drained(tmp_path))
            with lock:
                found.update(taken)

    threads = [threading.Thread(target=drain) for _ in range(3)]
    for thread in threads:
        thread.start()
    for n in range(600):
        assert writer.append(a_record(n))
    writer.close()
    stop.set()
    for thread in threads:
        thread.join()
    assert len(found) == 600
    assert set(found.values()) == {1}


def test_a_claim_is_exclusive_and_can_be_given_back(tmp_path: Path) -> None:
    writer = _writer(tmp_path)
    writer.append(a_record())
    writer.close()
    first, second = SpoolReader(tmp_path), SpoolReader(tmp_path)
    (segment,) = first.claim()
    assert list(second.claim()) == []
    first.release(segment)
    assert _drained(tmp_path, second) == [a_record()]


_WRITER = """
import sys, itertools
from pathlib import Path
from dspex_ray.core.clock import SystemClock
from dspex_ray.core.ids import new_id
from dspex_ray.settings import SpoolSettings
from dspex_ray.traces.spool import SpoolWriter
from tests.unit.traces.records import a_record

writer = SpoolWriter(
    Path(sys.argv[1]), SpoolSettings(rotate_bytes=20_000), SystemClock(), new_id
)
for n in itertools.count():
    if writer.append(a_record(n)):
        sys.stdout.write(f"{n}\\n")
        sys.stdout.flush()
"""


def test_a_killed_process_loses_nothing_that_it_answered(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    answered = [int(process.stdout.readline()) for _ in range(500)]
    process.send_signal(signal.SIGKILL)
    answered += [int(line) for line in process.stdout if line.endswith("\n")]
    process.wait()
    process.stdout.close()
    found = Counter(record.id.int & 0xFFFFFFFF for record in _drained(tmp_path))
    assert set(answered) <= set(found)
    assert set(found.values()) == {1}
    assert len(found) <= len(answered) + 1  # perhaps one written, but not yet told


def test_figures_say_what_waits(tmp_path: Path) -> None:
    assert spool_figures(tmp_path / "none", NOW) == (0, 0, 0.0, 0)
    writer = _writer(tmp_path)
    writer.append(a_record(1))
    writer.append(a_record(2))
    (tmp_path / "x.bad").write_bytes(b"?")
    size = len(encode(a_record(1))) + len(encode(a_record(2)))
    later = NOW + timedelta(seconds=30)
    assert spool_figures(tmp_path, later) == (1, size, 30.0, 1)
    writer.close()
    _drained(tmp_path)
    assert spool_figures(tmp_path, later) == (0, 0, 0.0, 1)
