"""The schema and the reader agree about what a treefile may say; the table is the rows'."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from composer.compose.document import TreefileError, dump
from composer.compose.keys import KEYS
from composer.compose.schema import schema, table
from composer.compose.treefile import load
from tests.compose.treefiles import SAMPLES, make_files, write

VALIDATOR = jsonschema.Draft202012Validator(schema())
NAMES = sorted({*SAMPLES, "include", *(name for key in KEYS for name in key.aliases)})

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 65), 1 << 65)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
    | st.sampled_from(["none", "data", "a == 1", "x.service", "2024", "/usr/x"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "entries", "if", "include", "repo", "packages", "name", "a"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=6,
)
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0$"), max_size=12)
many = settings(
    max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def test_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(schema())


def test_every_key_has_a_sample_and_is_in_the_schema() -> None:
    rows = {key.name for key in KEYS} - {"packages-<basearch>", "include"}
    assert rows == set(SAMPLES) - {"packages-x86_64", "packages-s390x"}
    for key, samples in SAMPLES.items():
        for sample in samples:
            assert VALIDATOR.is_valid({key: sample}), key


def _agree(directory: Path, document: dict[str, object], key: str) -> None:
    """What the schema refuses is refused with file, key and line; and what is read fits it."""
    path = write(directory, "a.yaml", f"# first\n{json.dumps(document)}\n")
    message = _refusal(path)
    if message is None:
        VALIDATOR.validate(document)
        return
    assert message.startswith(str(path))
    assert key in message
    assert "line 2" in message


def _refusal(path: Path) -> str | None:
    try:
        load(path, basearch="x86_64")
    except TreefileError as error:
        return error.message
    return None


@many
@given(st.sampled_from(NAMES), values)
@example("metadata", {"a": float("1e300")})
@example("include", "x" * 5000)
@example("check-passwd", {"type": "file", "filename": "x" * 5000})
@example("ref", "\ud800")
@example("postprocess", ["\0"])
def test_wrong_values_are_refused_with_file_key_and_line(
    tmp_path: Path, key: str, value: object
) -> None:
    _agree(tmp_path, {key: value}, key)


def _places(value: object, trail: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    found = [trail] if trail else []
    if isinstance(value, dict):
        for name, item in value.items():
            found += _places(item, (*trail, name))
    if isinstance(value, list):
        for index, item in enumerate(value):
            found += _places(item, (*trail, index))
    return found


@many
@given(st.data())
def test_a_wrong_part_of_a_right_value_is_refused(tmp_path: Path, data: st.DataObject) -> None:
    make_files(tmp_path)
    key = data.draw(st.sampled_from(sorted(SAMPLES)))
    document = copy.deepcopy({key: data.draw(st.sampled_from(SAMPLES[key]))})
    trail = data.draw(st.sampled_from(_places(document)))
    inner: object = document
    for part in trail[:-1]:
        inner = inner[part]  # type: ignore[index]
    inner[trail[-1]] = data.draw(values)  # type: ignore[index]
    _agree(tmp_path, document, key)


@pytest.mark.parametrize(
    "document",
    [
        {"packges": []},
        {"packages": "a"},
        {"packages-arch64": []},
        {"variables": {"basearch": "x"}},
        {"variables": {"a": "${b}"}},
        {"conditional-include": [{"if": "a == 1", "include": {"packages": "x"}}]},
        {"check-passwd": {"type": "file"}},
        {"check-passwd": {"type": "none", "filename": "x"}},
        {"check-groups": {"type": "data", "entries": {"a": [1, 2]}}},
        {"automatic-version-suffix": ".."},
        {"rojig": {"name": "x"}},
        {"add-files": [["a"]]},
    ],
)
def test_wrong_treefiles_do_not_fit_the_schema(document: object) -> None:
    assert not VALIDATOR.is_valid(document)


@many
@given(st.data())
def test_flattened_treefile_fits_and_means_the_same(tmp_path: Path, data: st.DataObject) -> None:
    make_files(tmp_path)
    documents = [
        {
            key: data.draw(st.sampled_from(SAMPLES[key]))
            for key in data.draw(st.lists(st.sampled_from(sorted(SAMPLES)), unique=True))
        }
        for _ in range(3)
    ]
    documents[0] |= {"include": ["1.yaml", "2.yaml"], "releasever": 41}
    documents[0]["variables"] = {"stream": "s", "number": 1}
    for number, document in enumerate(documents):
        write(tmp_path, f"{number}.yaml", yaml.safe_dump(document))
    first = load(tmp_path / "0.yaml", basearch="x86_64")
    flattened = first.flattened()
    VALIDATOR.validate(flattened)
    for name, text in (("f.yaml", dump(flattened)), ("f.json", json.dumps(flattened))):
        again = load(write(tmp_path, name, text), basearch="x86_64")
        assert again.given == first.given
        assert again.flattened() == flattened
        assert again.digest() == first.digest()


@many
@given(texts | st.sampled_from(["1e3", "08", "0x1f", "on", "~", "<<", "|", "\x85 "]))
@example(" leading\n\ttab\n \n")
@example("trailing \nspace\n\n")
def test_text_survives_yaml(tmp_path: Path, text: str) -> None:
    said = {"packages": ["x"], "metadata": {"a": text, f"x{text}": [text]}}
    loaded = load(write(tmp_path, "a.yaml", dump(said)), basearch="x86_64")
    assert loaded.metadata == {"a": text, f"x{text}": (text,)}


def test_documented_table_is_the_rows() -> None:
    text = (Path(__file__).parents[2] / "docs/treefile.md").read_text()
    assert table() in text, "run: python docs/make_treefile.py"
