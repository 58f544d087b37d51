"""State files: an identity, atomic, and every damage told."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from evoemb import MemoryState, _files
from evoemb._errors import StateError, StorageError
from evoemb.state import file as persistence
from kinds import CASES
from laws import assert_same_embeddings, assert_same_states, bytes_of


@pytest.fixture(scope="module")
def read():
    """A state of two streams, one in the middle of a segment; read once a model."""

    @cache
    def state_of(model, first, second):
        state = model.new_state(2)
        model.encode([list(first), list(second)], stateful=True, state=state)
        return state

    return state_of


@pytest.fixture
def state(model, stream, read):
    """A state of two streams, one in the middle of a segment."""
    return read(model, tuple(stream[:6]), tuple(stream)).clone()


@pytest.fixture
def path(state, tmp_path):
    """The saved state."""
    state.save(tmp_path / "chat.safetensors")
    return tmp_path / "chat.safetensors"


def header_of(path: Path) -> dict:
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["evoemb_state"].partition(" ")[2])


def rewrite(path: Path, header: object = None, **tensors: torch.Tensor | None) -> None:
    """Change a state file; a tensor given as None is left out."""
    header = header_of(path) if header is None else header
    kept = {name: one for name, one in (load_file(path) | tensors).items() if one is not None}
    told = header if isinstance(header, str) else json.dumps(header)
    # With a right checksum: what contradicts itself is refused even where a program wrote it so.
    save_file(kept, path, metadata={"evoemb_state": f"{persistence._digest(told, kept)} {told}"})


def test_saving_and_loading_is_an_identity(state, path):
    loaded = MemoryState.load(path)
    assert bytes_of(loaded) == bytes_of(state)
    assert loaded.spec == state.spec
    assert loaded.num_turns == state.num_turns


def test_a_loaded_state_reads_on_as_the_saved_one(model, state, path, stream):
    loaded = MemoryState.load(str(path))
    more = [stream[6:], stream[:4]]
    for mine, theirs in zip(
        model.encode(more, stateful=True, state=loaded), model.encode(more, stateful=True, state=state), strict=True
    ):
        # An open segment is computed again from its token ids, which sums in another order than its cached values.
        assert_same_embeddings(mine, theirs)
    assert_same_states(loaded, state)


def test_an_empty_state_is_saved_too(model, tmp_path, stream):
    model.new_state(3).save(tmp_path / "new" / "folder" / "empty.safetensors")
    loaded = MemoryState.load(tmp_path / "new" / "folder" / "empty.safetensors")
    assert bytes_of(loaded) == bytes_of(model.new_state(3))
    model.encode([stream] * 3, stateful=True, state=loaded)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_state_in_half_precision_keeps_its_bits(models, stream, tmp_path, dtype):
    state = models("bert", "attention").new_state()
    models("bert", "attention").encode(stream, stateful=True, state=state)
    half = MemoryState(state.spec, [memory.to("cpu", dtype) for memory in state.snapshot()])
    half.save(tmp_path / "half.safetensors")
    assert bytes_of(MemoryState.load(tmp_path / "half.safetensors")) == bytes_of(half)


def test_saving_over_a_file_replaces_it_and_leaves_nothing_else(model, state, path, stream):
    model.encode([stream, stream], stateful=True, state=state)
    state.save(path)
    assert bytes_of(MemoryState.load(path)) == bytes_of(state)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_the_file_holds_numbers_and_what_they_belong_to_only(model, path):
    header = header_of(path)
    assert set(header) == {"format", "spec", "num_turns", "unanswered", "notes"}
    assert header["spec"]["fingerprint"] == model.state_spec.fingerprint
    names = {name.split(".")[0] for name in load_file(path)}
    assert names <= {"latents", "open_ids", "open_lengths"}


def test_a_save_that_fails_leaves_the_old_file(state, path, model, stream, monkeypatch):
    old = path.read_bytes()
    model.encode([stream, stream], stateful=True, state=state)
    for place in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(_files.os, place, lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
            with pytest.raises(StorageError, match=r"cannot be written: No space left .* is unchanged"):
                state.save(path)
        assert path.read_bytes() == old
        assert [file.name for file in path.parent.iterdir()] == [path.name]


# Dies when every file given is half written.
_KILLED = """
import os, sys, threading, evoemb._files as files
from evoemb import MemoryState
states = [MemoryState.load(path) for path in sys.argv[1:]]
halfway = threading.Barrier(len(states))
def partly(handle):
    os.ftruncate(handle, 20)
    halfway.wait(60)
    os._exit(9)
files.os.fsync = partly
for state, path in zip(states, sys.argv[1:]):
    state.reset()
    threading.Thread(target=state.save, args=[path]).start()
"""


def test_a_process_killed_while_saving_leaves_the_old_files(models, stream, tmp_path):
    states = {}
    for kind, reader in CASES:
        state = models(kind, reader).new_state(2)
        models(kind, reader).encode([stream[:6], stream], stateful=True, state=state)
        state.save(tmp_path / f"{kind}-{reader}.safetensors")
        states[tmp_path / f"{kind}-{reader}.safetensors"] = state
    done = subprocess.run([sys.executable, "-c", _KILLED, *map(str, states)], check=False, timeout=120)
    assert done.returncode == 9
    assert len(list(tmp_path.iterdir())) == 2 * len(CASES)  # the half of each that was being written
    for path, state in states.items():
        assert bytes_of(MemoryState.load(path)) == bytes_of(state)


def test_a_missing_file_is_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        MemoryState.load(tmp_path / "none.safetensors")


@pytest.mark.parametrize("kept", [0, 1, 7, 8, 40, 500, -1])
def test_a_file_that_was_cut_off_is_refused(path, kept):
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(StateError, match=rf"{path.name} cannot be read as a memory state: it is cut off"):
        MemoryState.load(path)


def test_every_single_flipped_bit_is_refused(models, stream):
    model = models("qwen3", "prefix")
    state = model.new_state()
    model.encode(stream[:2], stateful=True, state=state)
    whole = state.to_bytes()
    for position in range(len(whole)):
        flipped = bytearray(whole)
        flipped[position] ^= 1 << position % 8
        with pytest.raises(StateError, match="cannot be read as a memory state"):
            MemoryState.from_bytes(bytes(flipped))
    assert bytes_of(MemoryState.from_bytes(whole)) == bytes_of(state)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_is_refused_and_never_run(tmp_path, protocol):
    path, trace = tmp_path / "chat.pt", tmp_path / "ran"

    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(trace),)

    path.write_bytes(pickle.dumps(Trap(), protocol=protocol))
    with pytest.raises(StateError, match="it is a pickle" if protocol > 1 else "no safetensors file"):
        MemoryState.load(path)
    assert not trace.exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_a_torch_file_is_refused_as_a_pickle(tmp_path, zipped):
    torch.save({"latents": torch.zeros(2)}, tmp_path / "chat.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(StateError, match=r"it is a pickle \(torch.save\), which can run code"):
        MemoryState.load(tmp_path / "chat.pt")


def test_a_file_whose_length_looks_like_a_pickle_is_read(models, tmp_path):
    """Safetensors begins with the length of its header; one length in 32 begins with a pickle's first byte."""
    path, seen, empty = tmp_path / "chat.safetensors", set(), models("bert", "attention").new_state()
    for length in range(1, 300, 4):
        state = MemoryState(replace(empty.spec, model_id="m" * length), empty.snapshot())
        state.save(path)
        seen.add(path.read_bytes()[0])
        assert MemoryState.load(path).spec.model_id == "m" * length
    assert 0x80 in seen


@pytest.mark.parametrize("content", [b"", b"hello", b"{}", b"\x00" * 100, b"\xff" * 100])
def test_any_other_file_is_refused(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(StateError, match="cannot be read as a memory state"):
        MemoryState.load(tmp_path / "file")


def test_safetensors_that_hold_no_state_are_refused(tmp_path):
    save_file({"weight": torch.zeros(2)}, tmp_path / "model.safetensors")
    with pytest.raises(StateError, match="it is a safetensors file, but not a memory state"):
        MemoryState.load(tmp_path / "model.safetensors")


def changed(path: Path, **values: object) -> dict:
    header = header_of(path)
    for name, value in values.items():
        (header if name in header else header["spec"])[name] = value
    return header


HEADERS = [
    ({"format": 1}, "it has format 1, and this version of evoemb reads 2"),
    ({"format": None}, "it has format None"),
    ({"num_turns": [1, 13]}, "claims 1 turns, too few"),
    ({"num_turns": [6], "unanswered": [None]}, "its tensors are not those of 1 streams"),
    ({"num_turns": [-5, 13]}, r"header is damaged \(num_turns is -5\)"),
    ({"num_turns": [True, 13]}, "num_turns is True"),
    ({"num_turns": [float("inf"), 13]}, "num_turns is inf"),
    ({"num_turns": ["many", 13]}, "header is damaged"),
    ({"num_turns": 5}, "it holds no stream"),
    ({"num_turns": []}, "it holds no stream"),
    ({"num_turns": [6, 13, 1], "unanswered": [None] * 3}, "its tensors are not those of 3 streams"),
    (
        {"num_turns": [6, 13], "unanswered": ["x", None]},
        r"its tensors are not those of 2 streams \('before.latents.0'\)",
    ),
    ({"unanswered": [None]}, r"unanswered is \[None\]"),
    ({"unanswered": [5, None]}, "unanswered is 5"),
    ({"unanswered": None}, "unanswered is None"),
    ({"notes": ["x"]}, r"notes is \['x'\]"),
    ({"notes": {"x": 1}}, r"notes is {'x': 1}"),
    ({"spec": {}}, "header is damaged"),
    ({"spec": None}, "header is damaged"),
    ({"num_latents": "3"}, "header is damaged"),
    ({"capacity_latents": None}, "header is damaged"),
    ({"latent_size": 5}, r"latents of shape \(\d+, \d+\), expected \(M, 5\)"),
    ({"capacity_latents": 3}, "more than (its capacity of 3 allows|15|5)"),
    ({"capacity_latents": 10**12}, "capacity_latents is 1000000000000"),
]


@pytest.mark.parametrize(("values", "message"), HEADERS, ids=[str(values) for values, _ in HEADERS])
def test_a_header_that_contradicts_itself_is_refused(path, values, message):
    rewrite(path, changed(path, **values))
    with pytest.raises(StateError, match=rf"cannot be read as a memory state: .*{message}"):
        MemoryState.load(path)


@pytest.mark.parametrize("header", ["", "[]", "5", "{}", "not json", "null"])
def test_a_header_that_is_none_is_refused(path, header):
    rewrite(path, header)
    with pytest.raises(StateError, match="header is damaged"):
        MemoryState.load(path)


@pytest.mark.parametrize("number", [torch.nan, torch.inf, -torch.inf])
def test_latents_that_are_not_finite_are_refused(path, number):
    latents = load_file(path)["latents.1"]
    latents[-1, -1] = number
    rewrite(path, **{"latents.1": latents})
    with pytest.raises(StateError, match="stream 1 holds latents that are NaN or infinite"):
        MemoryState.load(path)


def test_latents_of_another_shape_or_type_are_refused(path):
    latents = load_file(path)["latents.1"]
    for other, message in (
        (latents[:, 1:].contiguous(), "stream 1 holds latents of shape"),
        (latents.flatten(), "stream 1 holds latents of shape"),
        (latents.repeat(9, 1), "stream 1 holds .* more than"),
        (latents.to(torch.int32), "stream 1 holds latents of type I32"),
        (latents.to(torch.float8_e4m3fn), "stream 1 holds latents of type F8_E4M3"),
        (None, "its tensors are not those of 2 streams"),
    ):
        rewrite(path, **{"latents.1": other})
        with pytest.raises(StateError, match=message):
            MemoryState.load(path)
        rewrite(path, **{"latents.1": latents})
    MemoryState.load(path)


def test_an_open_segment_that_contradicts_itself_is_refused(models, stream, tmp_path):
    model, path = models("qwen3", "prefix"), tmp_path / "chat.safetensors"
    state = model.new_state()
    model.encode(stream[:2], stateful=True, state=state)
    state.save(path)
    tensors = load_file(path)
    ids, lengths = tensors["open_ids.0"], tensors["open_lengths.0"]
    for values in (
        {"open_ids.0": None},
        {"open_ids.0": ids[1:].clone()},
        {"open_ids.0": -ids},
        {"open_lengths.0": lengths + 1},
        {"open_lengths.0": torch.tensor([5, -5, len(ids)])},
        {"open_lengths.0": torch.ones(len(ids), dtype=torch.long)},
        {"open_lengths.0": lengths.float()},
        {"open_ids.0": ids.reshape(1, -1)},
        {"open_ids.0": torch.zeros(2**21, dtype=torch.long)},
    ):
        rewrite(path, **values)
        with pytest.raises(StateError, match="cannot be read as a memory state"):
            MemoryState.load(path)
        rewrite(path, **{"open_ids.0": ids, "open_lengths.0": lengths})
    assert bytes_of(MemoryState.load(path)) == bytes_of(state)


def test_token_ids_that_the_model_does_not_have_leave_the_state_as_it_was(models, stream, tmp_path):
    model, path = models("qwen3", "prefix"), tmp_path / "chat.safetensors"
    state = model.new_state()
    model.encode(stream[:2], stateful=True, state=state)
    state.save(path)
    ids = load_file(path)["open_ids.0"]
    ids[0] = 10**6
    rewrite(path, **{"open_ids.0": ids})
    loaded = MemoryState.load(path)
    with pytest.raises((StateError, IndexError)):
        model.encode(stream[2:], stateful=True, state=loaded)
    assert loaded.num_turns == 2


def test_a_state_is_saved_while_it_is_being_advanced(models, stream, tmp_path):
    """Saving takes the value of one moment: what is loaded is one of the values the state ever had."""
    model, path = models("bert", "attention"), tmp_path / "chat.safetensors"
    state = model.new_state()
    values = {bytes_of(state)}
    with ThreadPoolExecutor(1) as pool:
        for turn in stream:
            saving = pool.submit(state.save, path)
            model.encode(turn, stateful=True, state=state)
            saving.result(60)
            values.add(bytes_of(state))
            assert bytes_of(MemoryState.load(path)) in values


def test_a_load_beside_a_writer_is_one_whole_state(models, stream, tmp_path):
    model, path = models("bert", "attention"), tmp_path / "chat.safetensors"
    states = [model.new_state() for _ in range(2)]
    for number, state in enumerate(states):
        model.encode(stream[: 3 + 5 * number], stateful=True, state=state)
        state.save(path)
    values = {bytes_of(state) for state in states}
    stop = threading.Event()

    def write():
        while not stop.is_set():
            for state in states:
                state.save(path)

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        try:
            found = {bytes_of(MemoryState.load(path)) for _ in range(400)}
        finally:
            stop.set()
        writing.result(60)
    assert found <= values


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes with names are of POSIX systems")
def test_what_is_no_regular_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(StateError, match=r"pipe is not a regular file"):
        MemoryState.load(tmp_path / "pipe")
    with pytest.raises(StateError, match=r"is not a regular file. Pass a file written by MemoryState.save"):
        MemoryState.load(tmp_path)


def test_a_sparse_file_of_six_gigabytes_is_refused_without_reading_it(path):
    with open(path, "r+b") as file:
        file.truncate(6 * 2**30)
    with pytest.raises(StateError, match=r"cut off|behind its end"):
        MemoryState.load(path)
    path.unlink()


def test_sizes_are_checked_before_memory_is_taken_for_them(path, monkeypatch):
    """A sparse file of two gigabytes whose own header says so: the spec, not the file, says what a state may hold."""
    whole = path.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + length])
    one = header["latents.1"]
    size = one["shape"][1] * 4
    one["shape"][0] = 2 * 2**30 // size
    one["data_offsets"] = [0, one["shape"][0] * size]
    header = {"__metadata__": header["__metadata__"], "latents.1": one, "latents.0": {**one, "data_offsets": [0, 0]}}
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + one["data_offsets"][1])
    monkeypatch.setattr(persistence, "load_tensors", lambda _: pytest.fail("the numbers were read"))
    with pytest.raises(StateError, match=r"holds \d+ entries in latents.1, more than"):
        MemoryState.load(path)
    path.unlink()


def test_a_file_of_the_former_format_is_refused_by_its_number(path):
    tensors, header = load_file(path), header_of(path)
    old = {name: header[name] for name in ("spec", "num_turns")}
    save_file(tensors, path, metadata={"evoemb_state": json.dumps({"format": 1, **old})})
    with pytest.raises(StateError, match="it has format 1, and this version of evoemb reads 2"):
        MemoryState.load(path)


def test_a_save_keeps_the_mode_and_follows_a_link(state, tmp_path):
    target, link = tmp_path / "real.safetensors", tmp_path / "link.safetensors"
    state.save(target)
    target.chmod(0o640)
    link.symlink_to(target)
    state.save(link)
    assert link.is_symlink()
    assert target.stat().st_mode & 0o777 == 0o640
    assert sorted(file.name for file in tmp_path.iterdir()) == ["link.safetensors", "real.safetensors"]


def test_a_name_as_long_as_names_can_be_is_saved_and_a_longer_one_refused(state, tmp_path):
    state.save(tmp_path / ("n" * 255))
    assert bytes_of(MemoryState.load(tmp_path / ("n" * 255))) == bytes_of(state)
    for impossible in (tmp_path / ("n" * 256), tmp_path / ("n" * 255) / "below", tmp_path):
        with pytest.raises(StorageError, match="cannot be written"):
            state.save(impossible)


def test_what_a_killed_process_left_is_removed_by_a_later_save(state, path):
    prefix = f".{hashlib.sha256(path.name.encode()).hexdigest()[:16]}."
    old, new = (path.parent / f"{prefix}{age}.tmp" for age in ("old", "new"))
    for leftover in (old, new):
        leftover.write_bytes(b"half")
    os.utime(old, (1, 1))
    state.save(path)
    assert not old.exists()
    assert new.exists()  # another process may be writing it


def test_the_memory_before_an_unanswered_turn_is_checked_as_any_other(models, stream, tmp_path):
    model, path = models("qwen3", "prefix"), tmp_path / "chat.safetensors"
    state = model.new_state()
    messages = [{"role": "user", "content": text} for text in stream[:2]]
    model.encode(messages, stateful=True, state=state)
    state.save(path)
    latents = load_file(path)["before.latents.0"]
    for values, message in (
        ({"before.latents.0": latents * torch.nan}, "stream 0 holds latents that are NaN"),
        ({"before.latents.0": latents.repeat(9, 1)}, "stream 0 holds 27 entries in before.latents.0, more than 24"),
        ({"before.latents.0": latents[:, 1:].contiguous()}, "stream 0 holds latents of shape"),
        ({"before.open_ids.0": None}, "stream 0 holds half of an open segment"),
        ({"before.latents.0": None}, r"not those of 1 streams \('before.latents.0'\)"),
    ):
        state.save(path)
        rewrite(path, **values)
        with pytest.raises(StateError, match=message):
            MemoryState.load(path)
    state.save(path)
    rewrite(path, changed(path, unanswered=[None]))
    with pytest.raises(StateError, match="not those of 1 streams"):
        MemoryState.load(path)
