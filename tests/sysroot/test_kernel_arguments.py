"""The line of words that a kernel reads."""

from __future__ import annotations

import pytest

from composer.errors import UsageError
from composer.sysroot.kernel_arguments import Edit, edited, join, split


def test_value_in_quotes_is_one_word() -> None:
    line = 'rw dyndbg="file drivers/usb/core/hub.c +p" quiet'
    assert split(line) == ("rw", 'dyndbg="file drivers/usb/core/hub.c +p"', "quiet")
    assert join(split(line)) == line


def test_delete_comes_before_replace_and_append() -> None:
    edit = Edit(replace=("root=b",), append=("console=ttyS0",), delete=("quiet", "a=1"))
    before = ("root=a", "quiet", "a=1", "a=2", "ostree=/ostree/boot.1/x")
    assert edited(before, edit) == ("root=b", "a=2", "console=ttyS0")


def test_replace_leaves_one_of_its_key_in_its_place() -> None:
    edit = Edit(replace=("console=hvc0",))
    assert edited(("console=tty0", "rw", "console=ttyS0"), edit) == ("console=hvc0", "rw")


def test_key_alone_deletes_all_of_it() -> None:
    assert edited(("a=1", "b", "a=2"), Edit(delete=("a",))) == ("b",)


@pytest.mark.parametrize("text", ["", "a b", "ostree=/x", "=x", "a\nb", "a\x1b[m", 'a="b'])
def test_what_is_no_argument_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        edited((), Edit(append=(text,)))


def test_line_that_a_kernel_would_cut_is_refused() -> None:
    with pytest.raises(UsageError, match="kernels read"):
        edited((), Edit(append=("a=" + "x" * 2000,)))


def test_deleting_what_is_not_there_is_told() -> None:
    with pytest.raises(UsageError, match="no kernel argument b") as told:
        edited(("a",), Edit(delete=("b",)))
    assert told.value.details == ("there are: a",)
