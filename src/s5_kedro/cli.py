"""`kedro run` that answers a user's mistake with one message instead of a traceback."""

from __future__ import annotations

import sys
import traceback
from typing import Any

import click
from kedro.framework.cli.project import run as kedro_run

# An error of one of these types carries a message for the user; anything else is a bug and keeps its traceback.
_FOR_USERS = (
    "ValueError",
    "OSError",
    "FloatingPointError",  # a loss that is not finite
    "OutOfMemoryError",  # of a GPU
    "Interrupted",
    "DatasetError",
    "MissingConfigException",
)

_EXIT_CODES = {"Interrupted": 130, "PartialMapError": 3}


class _Run(click.Command):
    def invoke(self, ctx: click.Context) -> Any:
        show_traceback = ctx.params.pop("traceback", False)
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except KeyboardInterrupt:
            _mark_killed()
            click.secho("Stopped by the user; the same command goes on from the last checkpoint.", err=True)
            sys.exit(130)
        except Exception as error:
            if type(error).__name__ == "PartDone":
                click.secho(str(error))
                return None
            if show_traceback or not is_for_users(error):
                traceback.print_exc()
                sys.exit(1)
            click.secho(f"Error: {error}", err=True, fg="red")
            click.secho("(--traceback shows where)", err=True, dim=True)
            sys.exit(_EXIT_CODES.get(type(error).__name__, 1))


def _mark_killed() -> None:
    """MLflow itself would end the run of an interrupted process as FINISHED."""
    mlflow = sys.modules.get("mlflow")
    if mlflow is not None and mlflow.active_run() is not None:
        mlflow.end_run("KILLED")


def is_for_users(error: BaseException) -> bool:
    """Whether the error's own message is what a user should see."""
    return any(cls.__name__ in _FOR_USERS for cls in type(error).__mro__)


_TRACEBACK = click.Option(["--traceback"], is_flag=True, help="Show the full traceback of an error.")


@click.group(name="s5")
def cli() -> None:
    """Commands of the S5 project."""


cli.add_command(
    _Run(
        name="run",
        callback=kedro_run.callback,
        params=[*kedro_run.params, _TRACEBACK],
        help=kedro_run.help,
        context_settings=kedro_run.context_settings,
    )
)
