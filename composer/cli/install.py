"""``jigdo-composer os-init`` and ``install``: a sysroot, or a whole disk, that boots."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from composer.cli.config import config_dir_option, parse_ref, wait_option, waiver_options
from composer.cli.console import Console, json_option
from composer.cli.sysroot_options import deployment_document, kargs_options
from composer.cli.text import plain
from composer.errors import UsageError

if TYPE_CHECKING:
    from composer.client.acceptance import Waivers
    from composer.ostree.locking import Wait
    from composer.sysroot.installing import Installed
    from composer.sysroot.kernel_arguments import Edit


@click.command("os-init")
@click.argument("name")
@click.option(
    "--sysroot",
    "place",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A directory, such as a mounted disk.",
)
@wait_option
@click.pass_obj
def os_init(console: Console, name: str, place: Path, wait: Wait | None) -> None:
    """Make the place of the operating system NAME in a sysroot, and the sysroot if need be."""
    from composer.sysroot.sysroot import Sysroot

    Sysroot.create(place).add_os(name, wait)
    console.result(plain(f"{place}: {name}, without a deployment; its repository is ostree/repo"))


@click.command()
@click.argument("ref", metavar="[REMOTE:]REF[@VERSION]")
@click.option(
    "--disk",
    required=True,
    type=click.Path(path_type=Path),
    metavar="IMAGE|DEVICE",
    help="All of it is used.",
)
@click.option("--size", metavar="SIZE", help="Of an image: bytes, or with M or G behind.")
@click.option("--wipe", is_flag=True, help="Overwrite what the disk holds.")
@click.option("--os", "os_name", metavar="NAME", help="What the OS is called there.")
@click.option(
    "--repo",
    "repository",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Take the commit from this repository instead of a remote.",
)
@click.option(
    "--boot-files",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Copy kernel, initramfs and arguments there, for a virtual machine.",
)
@kargs_options
@waiver_options
@config_dir_option
@wait_option
@json_option
@click.pass_obj
def install(
    console: Console,
    ref: str,
    disk: Path,
    size: str | None,
    wipe: bool,
    os_name: str | None,
    repository: Path | None,
    boot_files: Path | None,
    kargs: Edit,
    waivers: Waivers,
    config_dir: Path | None,
    wait: Wait | None,
    as_json: bool,
) -> None:
    """Make a disk that boots REF, from a remote or a repository.

    The disk gets a GPT with one ext4 partition, and on it a sysroot with the commit.  Disks with
    anything mounted or in use are left alone; those that hold anything, without --wipe.
    """
    from composer.sysroot.bringing import from_remote, from_repository
    from composer.sysroot.installing import Target
    from composer.sysroot.installing import install as install_disk

    name, plain_ref, version = parse_ref(ref)
    if repository and version:
        raise UsageError("--repo has no versions, only refs and commits")
    target = Target(disk, _bytes(size) if size else None, wipe)
    with console.progress(as_json=as_json) as report:
        bring = (
            from_repository(repository, name, plain_ref, config_dir, report, wait)
            if repository
            else from_remote(name, plain_ref, version, config_dir, waivers, report)
        )
        done = install_disk(
            target,
            bring,
            os=os_name or plain_ref.partition("/")[0],
            kargs=kargs,
            copies=boot_files,
            report=report,
        )
    _show(console, done, as_json=as_json)


def _bytes(text: str) -> int:
    units = {"M": 1 << 20, "G": 1 << 30}
    number, unit = (text[:-1], units[text[-1]]) if text[-1:] in units else (text, 1)
    if not number.isascii() or not number.isdigit():
        raise UsageError(f"{text}: not a size", hint="--size 8G")
    return int(number) * unit


def _show(console: Console, done: Installed, *, as_json: bool) -> None:
    boot = done.boot
    if as_json:
        console.json(
            {
                "disk": str(done.disk.path),
                "uuid": done.disk.uuid,
                "offset": done.disk.offset,
                "deployment": deployment_document(done.deployment),
                "boot_loader": done.boot_loader or None,
                "kernel": str(boot.kernel),
                "initramfs": str(boot.initramfs) if boot.initramfs else None,
                "arguments": boot.arguments,
            }
        )
        return
    console.result(plain(f"{done.disk.path}: {done.deployment.os} {done.deployment.commit}"))
    if done.boot_loader:
        console.result(f"boot loader: {done.boot_loader}")
    else:
        console.result("no boot loader was found here; what a virtual machine boots it with:")
    console.result(plain(f"  kernel: {boot.kernel}"))
    if boot.initramfs:
        console.result(plain(f"  initramfs: {boot.initramfs}"))
    console.result(plain(f"  arguments: {boot.arguments}"))
