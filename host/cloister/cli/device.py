# SPDX-License-Identifier: BSD-2-Clause
"""``cloister device``: start, stop and look into the emulated device."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import click

from cloister.cli.common import show_facts, show_json, show_table
from cloister.device.errors import DeviceError, InstanceNotRunning

EXAMPLE = """
\b
Examples:
  cloister device start
  cloister device shell
  cloister device shell -- dmesg
  cloister device logs --secure --follow
  cloister device stop
  cloister device reset
"""

NAME = click.option(
    "--name", default="default", show_default=True, metavar="NAME",
    help="The instance; several can run at once. Elsewhere it is the target qemu:NAME.",
)  # fmt: skip


@click.group(epilog=EXAMPLE)
def device() -> None:
    """Start, stop and look into the emulated device.

    A device keeps its secure storage, and so its key, from start to stop to start, until it is reset.
    """


@device.command(epilog="Example: cloister device start --name second")
@NAME
@click.option("--profile", default="default", show_default=True, help="Profile of the machine definition.")
@click.option("--machine", default="virt", show_default=True, help="Machine definition, qemu/MACHINE.toml.")
@click.option("--timeout", type=click.FloatRange(min=1), help="Seconds that the boot may take.")
@click.option("--quiet", "-q", is_flag=True, help="Show no progress.")
def start(name: str, profile: str, machine: str, timeout: float | None, quiet: bool) -> None:
    """Start the device and leave it running."""
    from cloister.device.progress import boot_progress
    from cloister.device.qemu import start_device

    begin = time.monotonic()
    with boot_progress(f"device {name}", quiet) as progress:
        started = start_device(name, machine=machine, profile=profile, daemon=True, progress=progress, timeout=timeout)
    note = started.instance.note
    started.close()
    if not quiet:
        click.echo(
            f"device {name} is up after {time.monotonic() - begin:.1f} s: QEMU process {note.qemu.pid}, "
            f"SSH on 127.0.0.1:{note.ssh_port}"
        )


@device.command(epilog="Example: cloister device stop")
@NAME
@click.option("--all", "every", is_flag=True, help="All instances that run.")
def stop(name: str, every: bool) -> None:
    """Switch the device off; its secure storage stays."""
    from cloister.device.qemu import stop_device
    from cloister_qemu.files import InstanceFiles, instance_names

    names = [each for each in instance_names() if InstanceFiles(each).locked()] if every else [name]
    for each in names:
        stop_device(each, lambda text: click.echo(text, err=True))
        click.echo(f"device {each} is stopped")


def describe(name: str) -> dict[str, Any]:
    """The state of one instance, for people and for programs."""
    from cloister_qemu.files import InstanceFiles

    files = InstanceFiles(name)
    note = files.read_note()
    running = files.locked()
    facts: dict[str, Any] = {"name": name, "state": "stopped", "directory": str(files.directory)}
    if running and note is None:
        facts["state"] = "starting or stopping"
    elif running and note is not None:
        from cloister.device.qemu import watch_events

        events = watch_events(name)
        facts |= {
            "state": events[0] if events else "running",
            "kind": "daemon" if note.daemon else f"of process {note.owner}",
            "machine": note.machine,
            "profile": note.profile,
            "pid": note.qemu.pid,
            "ssh": f"127.0.0.1:{note.ssh_port}",
            "up_seconds": round(time.time() - note.started, 1),
        }
    facts["storage"] = str(files.storage) if files.storage.exists() else None
    return facts


@device.command(epilog="Example: cloister device status --json")
@click.option("--name", default=None, metavar="NAME", help="Only this instance [default: all].")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status(name: str | None, as_json: bool) -> None:
    """Show which devices there are and what they do."""
    from cloister_qemu.files import instance_names

    facts = [describe(each) for each in ([name] if name else instance_names())]
    if as_json:
        show_json(facts)
    elif name:
        show_facts({key: value for key, value in facts[0].items() if value is not None})
    elif not facts:
        click.echo("no device was ever started; start one with: cloister device start")
    else:
        rows = [[fact["name"], fact["state"], fact.get("kind", ""), fact.get("ssh", "")] for fact in facts]
        show_table("Devices", ["name", "state", "kind", "SSH"], rows)


@device.command(epilog="Example: cloister device shell -- xtest -l 0 1001")
@NAME
@click.option("--target", default=None, envvar="CLOISTER_TARGET", help="Another device, such as ssh://root@board.")
@click.argument("command", nargs=-1)
def shell(name: str, target: str | None, command: tuple[str, ...]) -> None:
    """Open a shell on the running device, or run COMMAND there."""
    from cloister.device.base import Device
    from cloister.device.qemu import join_device
    from cloister.device.targets import connect

    opened: Device = (
        connect(target)
        if target and not target.startswith("qemu")
        else join_device(target.partition(":")[2] or name if target else name)
    )
    with opened:
        if not command:
            sys.exit(opened.shell())

        def show(data: bytes) -> None:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()

        done = opened.run(" ".join(command), check=False, on_output=show)
        sys.stderr.buffer.write(done.stderr)
        sys.exit(done.returncode if 0 <= done.returncode < 256 else 1)


@device.command(epilog="Example: cloister device logs --secure -n 50")
@NAME
@click.option("--secure", "world", flag_value="secure", help="The secure world's log (OP-TEE).")
@click.option("--normal", "world", flag_value="normal", help="The normal world's log (firmware and Linux).")
@click.option("--qemu", "world", flag_value="qemu", help="What QEMU itself printed.")
@click.option("--lines", "-n", type=click.IntRange(1), default=40, show_default=True, help="Last lines to show.")
@click.option("--follow", "-f", is_flag=True, help="Go on until the device stops or Ctrl-C.")
@click.option("--previous", is_flag=True, help="Those of the run before.")
def logs(name: str, world: str | None, lines: int, follow: bool, previous: bool) -> None:
    """Show the device's logs; without a choice, both worlds'."""
    from cloister_qemu.files import InstanceFiles

    files = InstanceFiles(name)
    paths: dict[str, Path] = {"normal": files.normal_log, "secure": files.secure_log, "qemu": files.qemu_log}
    chosen = [world] if world else ["normal", "secure"]
    if previous:
        paths = {key: path.with_name(path.name + ".1") for key, path in paths.items()}
    if not any(paths[each].exists() for each in chosen):
        raise DeviceError(f"the device {name!r} has no such logs", "start it with: cloister device start")
    show_logs({each: paths[each] for each in chosen}, lines, follow, files.locked)


def show_logs(paths: dict[str, Path], lines: int, follow: bool, running: Any) -> None:
    """Print the tails of logs, then what is added while the device runs."""
    from cloister_qemu.console import LogFollower, tail

    followers = {name: LogFollower(path) for name, path in paths.items()}
    for name, path in paths.items():
        if len(paths) > 1:
            click.echo(f"--- {name} world")
        followers[name].poll()
        click.echo(tail(path, lines))
    while follow:
        alive = running()
        for name, follower in followers.items():
            for line in follower.poll():
                click.echo(f"{name}: {line}" if len(paths) > 1 else line)
        if not alive:
            return
        time.sleep(0.2)


@device.command(epilog="Example: cloister device reset --force")
@NAME
@click.option("--force", is_flag=True, help="Stop it first when it runs.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask (it only asks on a terminal).")
def reset(name: str, force: bool, yes: bool) -> None:
    """Delete the device's secure storage, keys and logs.

    The next start makes a new device: its key is another, and licences made for the old one are refused.
    """
    from cloister.device.qemu import reset_device

    if not yes and sys.stdin.isatty():
        click.confirm(f"Delete secure storage and key of the device {name!r}? Licences for it end", abort=True)
    try:
        reset_device(name, force)
    except InstanceNotRunning as error:
        raise DeviceError(f"there is no device {name!r}", "cloister device status lists them") from error
    click.echo(f"device {name} is reset")
