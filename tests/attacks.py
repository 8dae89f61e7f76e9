"""The catalogue of attacks: tests marked ``attack``, and what the client said in each.

``make attack-proof`` runs them and prints the table.
"""

from __future__ import annotations

from collections.abc import Generator

import pytest

_SAID: list[str] = []


def said(text: str) -> None:
    """Remember what the client said, for the table."""
    _SAID.append(text.removeprefix("error: "))


def pytest_configure(config: pytest.Config) -> None:
    """Say what the mark means."""
    config.addinivalue_line("markers", "attack(name, does): what an attacker tries, and how")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that prints the table."""
    parser.addoption("--attack-table", action="store_true", help="print the table of attacks")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Give a marked test's report what the client said."""
    _SAID.clear()
    try:
        return (yield)
    finally:
        for mark in item.iter_markers("attack"):
            last = _SAID[-1] if _SAID else ""
            case = item.name.partition("[")[2].rstrip("]")
            name, does = mark.args
            item.user_properties.append(
                ("attack", (name, f"{does} ({case})" if case else does, last))
            )


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table, when it was asked for."""
    if not terminalreporter.config.getoption("--attack-table"):
        return
    rows = sorted(
        (*value, verdict)
        for outcome, verdict in (("passed", "held"), ("failed", "FELL"))
        for report in terminalreporter.stats.get(outcome, [])
        for name, value in report.user_properties
        if name == "attack"
    )
    terminalreporter.section("attacks")
    for attack, does, answer, verdict in rows:
        terminalreporter.write_line(f"{verdict:5} {attack}")
        terminalreporter.write_line(f"      the mirror: {does}")
        terminalreporter.write_line(f"      the client: {answer}")
    fell = sum(row[-1] != "held" for row in rows)
    terminalreporter.write_line(f"{len(rows)} attacks, {fell} of them fell through")
