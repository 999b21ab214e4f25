"""How `kedro run` ends."""

import pytest
from click.testing import CliRunner

from s5.selection import PartDone
from s5_kedro.cli import _Run


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (PartDone("part 1/3 is done; the others are missing"), 0, "part 1/3 is done"),
        (ValueError("s4p.steps: expected more"), 1, "Error: s4p.steps: expected more"),
    ],
)
def test_a_run_that_did_its_part_is_no_failure(error, code, said):
    def run() -> None:
        raise error

    done = CliRunner().invoke(_Run(name="run", callback=run, params=[]), [])
    assert done.exit_code == code
    assert said in done.output
