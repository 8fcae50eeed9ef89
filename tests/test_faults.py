"""The fault campaign in small: its quick faults, its table, and what it takes for silent."""

import re
from pathlib import Path

import pytest

from tests.faults.campaign import Outcome, suffer, table
from tests.faults.fault import FAULTS, Fault
from tests.faults.run import NotHitError, Run, Said, contents
from tests.faults.topics import TOPICS

QUICK = [fault for fault in FAULTS.values() if fault.is_quick]


def test_the_campaign_has_all_topics() -> None:
    """At least 24 faults, each with its recovery, told in one line of the table."""
    assert len(FAULTS) >= 24 and len(QUICK) >= 2
    assert {fault.topic for fault in FAULTS.values()} == set(TOPICS)
    for fault in FAULTS.values():
        assert fault.recovery and "|" not in fault.name + fault.recovery
        re.compile(fault.sees)


@pytest.mark.parametrize("fault", QUICK, ids=lambda fault: fault.name)
def test_a_quick_fault_is_told_and_mended(
    fault: Fault, micro_checkout: Path, micro_run: Path, tmp_path: Path
) -> None:
    """As in the campaign: the message comes, and after the recovery every byte is the same."""
    outcome = suffer(fault, micro_checkout, micro_run, tmp_path)
    assert outcome.told
    assert outcome.differences == ()


def test_what_is_not_told_is_no_success(
    micro_checkout: Path, micro_run: Path, tmp_path: Path
) -> None:
    """A campaign that hits nothing, or overlooks a changed file, would prove nothing."""

    def spoil(run: Run) -> Said:
        run.path("results/tables/*.parquet").write_bytes(b"something else")
        return Said(0, "all is well")

    silent = suffer(Fault("spoil", "Files", "", "none", spoil), micro_checkout, micro_run, tmp_path)
    assert silent.is_silent
    assert [Path(place).suffix for place in silent.differences] == [".parquet"]
    assert "silent losses: 1." in table([silent])
    told = Fault("spoil", "Files", "DAMAGED", "none", spoil)
    with pytest.raises(NotHitError, match="nothing says 'DAMAGED'"):
        suffer(told, micro_checkout, micro_run, tmp_path)


def test_the_table_counts_and_keeps_its_columns() -> None:
    """Bars and backticks of a message do not break a row."""

    def nothing(_run: Run) -> Said:
        return Said(0, "")

    one = Fault("a kill", "Processes", "x", "none needed", nothing)
    other = Fault("a cut", "Files", "", "the same command", nothing)
    page = table([Outcome(one, "`a` | b", (), 1.0), Outcome(other, "", ("results/x",), 1.0)])
    assert "2 faults: 1 end in equal hashes; silent losses: 1." in page
    rows = [line for line in page.splitlines() if line.startswith("| a ")]
    assert rows == [
        "| a kill | `'a' / b` | none needed | yes |",
        "| a cut | nothing | the same command | no, 1 files |",
    ]


def test_times_and_machines_are_no_contents(micro_run: Path) -> None:
    """What is compared is the release, all per-scan results, tables and records."""
    found = contents(micro_run)
    assert {"results/release/2.0/SHA256SUMS", "results/tables/tumors.parquet"} <= found.keys()
    assert any(place.startswith("records/models/") for place in found)
    assert any(place.endswith("/record.json") for place in found)
    assert not any("/provenance/" in place or "/." in place for place in found)
