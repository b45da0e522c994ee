# SPDX-License-Identifier: BSD-2-Clause
"""``cloister``: the group of all commands, and how errors are shown."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

import click

from cloister.errors import CloisterError

#: Command, the module that holds it, and its line in ``cloister --help``. A module is only imported when it is needed.
COMMANDS = {
    "inspect": ("cloister.cli.inspect", "Show what is in a model, bundle, licence or TA."),
    "quantize": ("cloister.cli.quantize", "Make an 8-bit model from an fp32 model and samples."),
    "prune": ("cloister.cli.prune", "Make a trained model smaller within an accuracy budget."),
    "edgepro": ("cloister.cli.edgepro", "Lock a trained model, so that it answers only with a password."),
    "protect": ("cloister.cli.protect", "Protect a trained model within a budget: all of it, and a report."),
    "attack": ("cloister.cli.attack", "Attack a protected model, and measure what that achieves."),
    "search": ("cloister.cli.search", "Search for the best strategy of protection within a budget."),
    "plan": ("cloister.cli.plan", "Tell whether and how a model fits into secure memory."),
    "calibrate": ("cloister.cli.calibrate", "Measure what the estimates of `plan` are made of."),
    "compile": ("cloister.cli.compile", "Compile an ONNX model into a sealed bundle."),
    "keys": ("cloister.cli.keys", "Make and show the vendor's keys."),
    "device": ("cloister.cli.device", "Start, stop and look into the emulated device."),
    "provision": ("cloister.cli.provision", "Fetch a device's public key and abilities."),
    "licence": ("cloister.cli.licence", "Let one device run one bundle."),
    "run": ("cloister.cli.run", "Run a bundle on a device."),
    "trace": ("cloister.cli.trace", "Tell whose password has leaked."),
}

EXAMPLE = """
\b
Examples:
  cloister inspect model.onnx
  cloister plan model.onnx --secure-memory 8MiB
  cloister compile model.onnx -o model.clb
  cloister device start
  cloister provision -o device.json
  cloister licence model.clb device.json -o model.lic
  cloister run model.clb model.lic images.npy
"""


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called, so that ``--help`` answers at once."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of use."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, or None."""
        if cmd_name not in COMMANDS:
            return None
        module, _ = COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(module), cmd_name.replace("inspect", "inspect_"))
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.group(cls=LazyGroup, epilog=EXAMPLE, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="cloister")
def cloister() -> None:
    """Protect trained neural networks on Arm TrustZone devices."""


def main(args: list[str] | None = None) -> Any:
    """Entry point: runs a command and turns errors into a message, a remedy and an exit status.

    Exit status: 0 done, 1 refused or failed, 2 wrong usage, 130 interrupted.
    """
    try:
        return cloister.main(args=args, prog_name="cloister", standalone_mode=False)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except CloisterError as error:
        if os.environ.get("CLOISTER_DEBUG"):
            raise
        click.secho(f"cloister: {error}", err=True, fg="red" if sys.stderr.isatty() else None)
        sys.exit(1)
    except (KeyboardInterrupt, click.Abort):
        told = "nothing half-written was left; trainings and searches go on with the same command"
        click.echo(f"cloister: interrupted; {told}", err=True)
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(141)
    except OSError as error:  # a path that nothing before has looked at
        if os.environ.get("CLOISTER_DEBUG") or error.filename is None:
            raise
        click.echo(f"cloister: {error.filename}: {error.strerror}\n  remedy: check the path, and your rights", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
