"""However a snapshot's newest file is damaged, what is loaded is a state that was saved, or nothing."""

from __future__ import annotations

import tempfile

from hypothesis import given
from hypothesis import strategies as st

from amorsize_executor import CheckpointManager, CheckpointPolicy, CheckpointState, StorageError

OLD = CheckpointState([0], ["old"], 3, 1.0, 1, 1, {"run": 1})
NEW = CheckpointState([0, 1], ["old", ("new", 2)], 3, 2.0, 1, 1, {"run": 2})


@given(
    form=st.sampled_from(["pickle", "json"]),
    has_old=st.booleans(),
    cut=st.one_of(st.none(), st.floats(0, 1, exclude_max=True)),
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), max_size=3),
    tail=st.binary(max_size=3),
)
def test_a_damaged_newest_version_is_never_believed(form, has_old, cut, flips, tail):
    """It is what it was, or the version before is taken, or it is an error."""
    with tempfile.TemporaryDirectory() as directory:
        manager = CheckpointManager(CheckpointPolicy(directory, save_format=form))
        if has_old:
            manager.save_checkpoint("run", OLD)
        path = manager.save_checkpoint("run", NEW)
        content = bytearray(path.read_bytes())
        for where, mask in flips:
            content[int(where * len(content))] ^= mask
        del content[len(content) if cut is None else int(cut * len(content)) :]
        path.write_bytes(bytes(content) + tail)
        try:
            loaded = manager.load_checkpoint("run")
        except StorageError:
            assert not has_old
        else:
            assert loaded in ([NEW, OLD] if has_old else [NEW])
            assert [type(result) for result in loaded.results] == [str, tuple][: len(loaded.results)]
