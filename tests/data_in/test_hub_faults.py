"""What can go wrong between a hub and a file: each fault is gone on after, or is one line, and nothing bad stays."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hub_stub import wait_for

from danlu import cli
from danlu.data.hub import web
from danlu.data.hub.fetch import fetch
from danlu.data.hub.web import Unreachable
from danlu.errors import DataError

HUBS = ["hf", "modelscope"]
DATA = "".join(json.dumps({"text": f"第{n}篇"}) + "\n" for n in range(20_000)).encode()
PATH = "data/a.jsonl"


@pytest.fixture
def one(hub):
    """A set of one file of some hundred kB."""
    hub.add("o/n", {PATH: DATA})
    return hub


def parts(tmp_path) -> list[Path]:
    return [path for path in tmp_path.rglob("*.incomplete") if path.is_file()]


def whole(tmp_path) -> list[Path]:
    """Return what lies in the caches as good."""
    folders = [*tmp_path.glob("hf/*/blobs"), *tmp_path.glob("hf/*/snapshots"), *tmp_path.glob("ms/datasets")]
    found = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return [path for path in found if path.suffix != ".incomplete"]


@pytest.mark.parametrize("kind", HUBS)
def test_a_cut_file_goes_on_where_it_was_cut(one, tmp_path, kind):
    one.faults[PATH] = [("cut", 1000), ("cut", 2000), ("cut", 0)]
    assert fetch(f"{kind}:o/n").files[0].read_bytes() == DATA
    assert one.ranges() == ["bytes=1000-", "bytes=3000-", "bytes=3000-"]
    assert not parts(tmp_path)


@pytest.mark.parametrize("kind", HUBS)
def test_what_an_earlier_process_left_is_gone_on_with(one, tmp_path, kind):
    one.faults[PATH] = [("cut", 5000)] + [("status", 503)] * 4
    with pytest.raises(Unreachable, match=r"status 503 \(5 attempts\)"):
        fetch(f"{kind}:o/n")
    assert [path.stat().st_size for path in parts(tmp_path)] == [5000]
    assert not whole(tmp_path)
    one.seen.clear()
    assert fetch(f"{kind}:o/n").files[0].read_bytes() == DATA
    assert one.ranges() == ["bytes=5000-"]


def test_progress_starts_the_count_of_attempts_anew(one, monkeypatch):
    monkeypatch.setattr(web, "_PROGRESS", 1000)
    one.faults[PATH] = [("cut", 1000)] * 20
    assert fetch("hf:o/n").files[0].read_bytes() == DATA
    assert len(one.ranges()) == 20


@pytest.mark.parametrize("kind", HUBS)
def test_a_server_without_ranges_is_read_from_the_start(one, kind):
    one.faults[PATH] = [("cut", 1000), ("ignores ranges",)]
    assert fetch(f"{kind}:o/n").files[0].read_bytes() == DATA


@pytest.mark.parametrize("kind", HUBS)
@pytest.mark.parametrize("have", [len(DATA), len(DATA) + 9])
def test_a_part_that_is_whole_or_too_long(one, tmp_path, kind, have):
    """A whole part needs no request; of a longer one nothing is believed."""
    one.faults[PATH] = [("cut", 10)] + [("status", 500)] * 4
    with pytest.raises(Unreachable):
        fetch(f"{kind}:o/n")
    parts(tmp_path)[0].write_bytes((DATA + bytes(9))[:have])
    one.seen.clear()
    assert fetch(f"{kind}:o/n").files[0].read_bytes() == DATA
    assert len([path for path, _ in one.seen if path.startswith("/cdn")]) == (have != len(DATA))


@pytest.mark.parametrize("kind", HUBS)
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (("wrong byte", 77), "a.jsonl came with a wrong checksum (sha256); it is removed. Run the command again"),
        (("shorter", 500), "holds 500 bytes where the hub lists"),
        (("longer", 5), f"holds {len(DATA) + 5:,} bytes where the hub lists {len(DATA):,}"),
        (("without length", 5), "sends more than the"),
    ],
)
def test_wrong_bytes_are_one_line_and_nothing_of_them_stays(one, tmp_path, capsys, kind, fault, message):
    one.faults[PATH] = [fault]
    assert cli.main(["fetch", f"{kind}:o/n"]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not parts(tmp_path)
    assert not whole(tmp_path)
    assert fetch(f"{kind}:o/n").files[0].read_bytes() == DATA


def test_a_wrong_byte_of_a_small_file_is_seen_by_gits_checksum(hub, tmp_path):
    hub.add("o/n", {"small.jsonl": b'{"text": "x"}\n'})
    hub.faults["small.jsonl"] = [("wrong byte", 3)]
    with pytest.raises(DataError, match=r"wrong checksum \(sha1\)"):
        fetch("hf:o/n")
    assert not whole(tmp_path)


def test_a_part_that_was_altered_is_found_out(one, tmp_path):
    one.faults[PATH] = [("cut", 5000)] + [("status", 503)] * 4
    with pytest.raises(Unreachable):
        fetch("hf:o/n")
    part = parts(tmp_path)[0]
    part.write_bytes(bytes(5000))
    with pytest.raises(DataError, match="wrong checksum"):
        fetch("hf:o/n")
    assert not part.exists()


@pytest.mark.parametrize("where", ["tree", "revision", PATH])
def test_busy_servers_are_asked_again(one, where, capsys):
    one.faults[where] = [("status", 429, {"Retry-After": "0"}), ("status", 503), ("status", 502)]
    assert fetch("hf:o/n").files[0].read_bytes() == DATA
    said = capsys.readouterr().err.replace("\n", "")
    assert "status 429; trying again in 0 s" in said
    assert "status 503; trying again" in said


@pytest.mark.parametrize("headers", [{"Retry-After": "1"}, {"RateLimit": '"api";r=0;t=1'}])
def test_the_wait_is_the_one_that_was_asked_for(one, headers):
    one.faults["tree"] = [("status", 429, headers)]
    began = time.monotonic()
    fetch("hf:o/n")
    assert 1 <= time.monotonic() - began < 5


def test_a_wait_of_hours_is_not_waited_for(one):
    one.faults["tree"] = [("status", 429, {"Retry-After": "7200"})]
    with pytest.raises(DataError, match=r"status 429 \(1 attempts\), and asks to wait 7,200 s"):
        fetch("modelscope:o/n")


@pytest.mark.parametrize("where", ["tree", PATH])
@pytest.mark.parametrize("kind", HUBS)
def test_a_silent_server_is_no_end_of_waiting(one, kind, where):
    one.faults[where] = [("silent",)] * 5
    began = time.monotonic()
    with pytest.raises(DataError, match=r"is silent for 0\.2 s \(5 attempts\)"):
        fetch(f"{kind}:o/n")
    assert time.monotonic() - began < 10


def test_a_server_that_drips_counts_as_cut(one, monkeypatch):
    monkeypatch.setattr(web, "STALL_SECONDS", 0.2)
    one.faults[PATH] = [("drips", 100, 0.05)]
    assert fetch("hf:o/n").files[0].read_bytes() == DATA
    assert one.ranges()


def test_a_host_that_is_not_there_is_one_line(one, capsys, monkeypatch):
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", "http://127.0.0.1:9")
    assert cli.main(["stats", "modelscope:o/n"]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert "Connection refused (5 attempts)" in last
    assert "name a mirror in MODELSCOPE_ENDPOINT" in last


def test_something_else_than_a_hub_is_one_line(one, capsys):
    for fault, message in [
        (("wrong byte", 0), "answers something else than a hub does. Check HF_ENDPOINT"),
        (("shorter", 2), "lists hf:o/n in an unknown way"),
    ]:
        one.faults["revision"] = [fault]
        assert cli.main(["stats", "hf:o/n"]) == 2
        assert message in capsys.readouterr().err.splitlines()[-1]


def environment(stub, tmp_path) -> dict[str, str]:
    names = {"HF_ENDPOINT": stub.url, "HF_HOME": str(tmp_path / "home"), "MODELSCOPE_DOMAIN": stub.url}
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("HF_", "MODELSCOPE_", "TRANSFORMERS_"))
    }
    return kept | names | {"MODELSCOPE_CACHE": str(tmp_path / "ms"), "COLUMNS": "200"}


@pytest.mark.slow
@pytest.mark.parametrize("kind", HUBS)
def test_ctrl_c_leaves_a_part_that_the_next_command_goes_on_with(stub, tmp_path, kind):
    stub.add("o/n", {PATH: DATA})
    stub.faults[PATH] = [("cut", 4000), ("silent",)]
    command = [sys.executable, "-m", "danlu", "fetch", f"{kind}:o/n", "--json"]
    options = {"env": environment(stub, tmp_path), "text": True, "stderr": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = subprocess.Popen(command, **options)
    wait_for(lambda: len([p for p, _ in stub.seen if p.startswith("/cdn")]) == 2, 60)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=10)
    assert process.returncode == 130, said
    assert said.endswith("interrupted\n")
    assert "Traceback" not in said
    assert [path.stat().st_size for path in parts(tmp_path)] == [4000]
    stub.seen.clear()
    done = subprocess.run(command, **options, check=True, timeout=60)
    result = json.loads(done.stdout.splitlines()[-1])
    assert Path(result["files"][0]).read_bytes() == DATA
    assert (result["bytes"], result["bytes_fetched"]) == (len(DATA), len(DATA))
    assert stub.ranges() == ["bytes=4000-"]
    assert "left" in done.stderr  # the bar, and the time left


FULL = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
from danlu import cli
sys.exit(cli.main(["fetch", sys.argv[1]]))
"""


def test_a_disk_that_fills_up_is_one_line_and_what_came_stays(stub, tmp_path):
    stub.add("o/n", {PATH: DATA})
    done = subprocess.run(
        [sys.executable, "-c", FULL, "hf:o/n"],
        env=environment(stub, tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "no space left on the disk" in done.stderr.splitlines()[-1]
    assert [path.stat().st_size for path in parts(tmp_path)] == [20_000]


@pytest.mark.slow
def test_two_processes_fetch_a_file_once(stub, tmp_path):
    stub.add("o/n", {PATH: DATA})
    stub.faults[PATH] = [("drips", 40, 0.05)]
    command = [sys.executable, "-m", "danlu", "fetch", "hf:o/n", "--json"]
    options = {"env": environment(stub, tmp_path), "text": True, "stderr": subprocess.PIPE, "stdout": subprocess.PIPE}
    twins = [subprocess.Popen(command, **options) for _ in range(2)]
    said = [twin.communicate(timeout=60) for twin in twins]
    assert [twin.returncode for twin in twins] == [0, 0], said
    found = {json.loads(out.splitlines()[-1])["files"][0] for out, _ in said}
    assert [Path(path).read_bytes() for path in found] == [DATA]
    fetched = [p for p, headers in stub.seen if p.startswith("/cdn") and "Range" not in headers]
    assert len(fetched) == 1


HOLDER = "import fcntl, sys; f = open(sys.argv[1]); fcntl.flock(f, fcntl.LOCK_EX); print(1, flush=True); input()"


def test_a_lock_of_another_is_waited_for(one, tmp_path, capsys):
    fetch("hf:o/n")
    blob = next(tmp_path.glob("hf/*/blobs/*"))
    lock = next(tmp_path.glob("hf/.locks/*/*.lock"))
    assert lock.name == f"{blob.name}.lock"
    for path in (blob, *tmp_path.glob("hf/*/snapshots/*/data/*")):
        path.unlink()
    held = subprocess.Popen(
        [sys.executable, "-c", HOLDER, lock], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert held.stdout.readline() == "1\n"
    threading.Timer(0.5, lambda: held.communicate("\n")).start()
    fetch.cache_clear()
    assert fetch("hf:o/n").files[0].read_bytes() == DATA
    assert "another process fetches it; waiting" in capsys.readouterr().err.replace("\n", " ")
