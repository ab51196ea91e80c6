"""A saved config is read back as it was, or refused: never half of it."""

import json
import math
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amorsize_executor import ConfigData, ConfigFileError, load_config, save_config
from amorsize_executor.tuning.saved_plan import describe_system

pytestmark = pytest.mark.slow

TEXT = st.none() | st.text(st.characters(codec="utf-8"))
CONFIGS = st.builds(
    ConfigData,
    st.integers(1, 10_000),
    st.integers(1, 1 << 40),
    st.sampled_from(["process", "thread", "serial"]),
    st.floats(0, allow_nan=False, allow_infinity=False),
    TEXT,
    st.none() | st.integers(0, sys.maxsize),
    st.none() | st.floats(0, allow_nan=False, allow_infinity=False),
    TEXT,
    st.just(describe_system()),
)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """Return a file that examples write over and over."""
    return tmp_path_factory.mktemp("configs") / "plan.json"


@given(config=CONFIGS)
def test_a_config_comes_back_as_it_was(path: Path, config):
    """Every value, every character."""
    save_config(config, path, overwrite=True)
    assert load_config(path) == config


@given(config=CONFIGS, share=st.floats(0, 0.999))
def test_a_cut_file_is_refused(path: Path, config, share):
    """Wherever it was cut."""
    save_config(config, path, overwrite=True)
    content = path.read_bytes().rstrip()
    path.write_bytes(content[: math.floor(len(content) * share)])
    with pytest.raises(ConfigFileError):
        load_config(path)


@given(document=st.dictionaries(st.sampled_from(sorted(ConfigData(1, 1).to_dict())), PLAIN))
def test_any_other_document_is_good_or_refused(path: Path, document):
    """With one kind of error, whatever stands in it."""
    document["system_info"] = describe_system()
    path.write_text(json.dumps(document), "utf-8")
    try:
        config = load_config(path)
    except ConfigFileError:
        return
    assert config.n_jobs >= 1
    assert config.chunksize >= 1
