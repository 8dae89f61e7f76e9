"""Every reader of untrusted bytes on its seeds and on hostile versions of them.

The seeds are parts of real sets and what fuzzing found (``make fuzz``).  What each harness
asserts stands in :mod:`tests.fuzz.harnesses`; here nothing but our own errors may come out,
and no more memory be taken than is declared.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.bounded import SEEDS, seeds
from tests.fuzz.harnesses import HARNESSES
from tests.jigdo.delta.contents import mutated

ROOT = Path(__file__).parents[2]
# One at a time these take a process or a file each, in C.
_SLOW = {"primary": 1000, "rpm": 1500, "recipe": 1500, "record": 1500, "packed-update": 1000}


def test_every_harness_has_seeds_and_the_reverse() -> None:
    assert sorted(HARNESSES) == sorted(path.name for path in SEEDS.iterdir())


@pytest.mark.parametrize("name", HARNESSES)
def test_hostile_fields_give_our_own_errors_within_the_declared_memory(name: str) -> None:
    """Every field with every value that hurts somewhere, cut, longer, spliced, bits flipped."""
    most = _SLOW.get(name, 4000)
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.bounded", name, str(most)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr[-4000:]


FAST = sorted(set(HARNESSES) - set(_SLOW) - {"set"})


@pytest.mark.parametrize("name", FAST)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_gives_our_own_errors(name: str, data: st.DataObject) -> None:
    own = seeds(name)
    seed = own[data.draw(st.sampled_from(sorted(own)))]
    other = own[data.draw(st.sampled_from(sorted(own)))]
    if data.draw(st.booleans()):
        cut, at = (data.draw(st.integers(0, len(one))) for one in (seed, other))
        seed = seed[:cut] + other[at:]
    HARNESSES[name](data.draw(mutated(seed)))


def test_seeds_are_what_the_script_makes_of_a_real_set(tmp_path: Path) -> None:
    """A format that changed makes its seeds worthless: they are to be written again."""
    code = (
        "import sys, pathlib; from tests.fuzz import make_seeds\n"
        "make_seeds.SEEDS = pathlib.Path(sys.argv[1]); make_seeds.main()"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, cwd=ROOT)
    made = {path.relative_to(tmp_path) for path in tmp_path.glob("*/*")}
    assert made
    # Compressed by another version of a library the bytes differ, but not what they say.
    for path in made:
        assert (SEEDS / path).is_file(), f"python -m tests.fuzz.make_seeds: {path} is new"
        name = path.parts[0]
        old, new = (SEEDS / path).read_bytes(), (tmp_path / path).read_bytes()
        assert HARNESSES[name](old) == HARNESSES[name](new), path
