"""The rules of a test session: nothing skips unnoticed, and a slow machine is not a failure.

A skipped test proves nothing, so every session ends by listing its skips, and where ``CI=true`` a
skip turns the session red unless the test is marked ``gpu`` or ``free_threaded``: the only things
a machine may honestly lack.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

MAY_SKIP = frozenset({"gpu", "free_threaded"})

# No deadline: no test asserts on time. In CI the same examples each run, so that a red run can be
# repeated; elsewhere new ones each time.
settings.register_profile("local", deadline=None, print_blob=True)
settings.register_profile("ci", deadline=None, print_blob=True, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") == "true" else "local")


class Skips:
    """Collects what was skipped, tests and whole modules, and whether it was allowed to."""

    def __init__(self, *, strict: bool) -> None:
        self.strict = strict
        self.lines: list[str] = []
        self.forbidden = 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.skipped and not hasattr(report, "wasxfail"):
            self._add(report, allowed=not MAY_SKIP.isdisjoint(report.keywords))

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.skipped:  # a module that skipped itself carries no marks
            self._add(report, allowed=False)

    def _add(self, report: pytest.TestReport | pytest.CollectReport, *, allowed: bool) -> None:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        self.lines.append(f"{'allowed' if allowed else 'UNMARKED'}: {report.nodeid}: {reason}")
        self.forbidden += not allowed

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.strict and self.forbidden and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        terminalreporter.section(f"{len(self.lines)} skipped, {self.forbidden} without a mark")
        for line in self.lines:
            terminalreporter.write_line(line)
        if self.strict and self.forbidden:
            marks = " or ".join(sorted(MAY_SKIP))
            terminalreporter.write_line(
                f"with CI=true only tests marked {marks} may skip: this session fails", red=True
            )


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Skips(strict=os.environ.get("CI") == "true"), "blatam-skips")
