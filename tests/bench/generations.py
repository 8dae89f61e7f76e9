"""Five generations of a repository: some of its packages rebuilt with changed contents.

The same repository gives the same contents: what changes depends on paths and on the
generation alone, and each generation changes what the one before it was.  Programs change
within their code, other files get lines and bytes in between, what is gzipped changes
inside; a kernel's modules move to another directory, as those of a new kernel do.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import shutil
import stat
import struct
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench.trees import index, link_all, names, query, rpms_in

COUNT = 5
_PACKAGES = 12
_FILES = 40
_LARGEST = 25_000_000
_STEP = 4096
_MADE = 1_735_689_600
# What a compose runs in the tree, depmod and its libraries, has to stay whole.
_RUN = ("kmod", "libkmod", "libc6", "glibc", "libssl", "openssl-libs", "liblzma", "xz-libs",
        "libzstd", "zlib")  # fmt: skip
_KERNEL = re.compile(r"/usr/lib/modules/([^/]+)")
_FIELDS = ("NAME", "VERSION", "RELEASE", "EPOCHNUM", "ARCH")
_LINE = "|".join(
    f"%{{{tag}}}"
    for tag in ("FILEMODES:octal", "FILEFLAGS", "FILEUSERNAME", "FILEGROUPNAME", "FILENAMES")
)
_PATTERN = re.compile(r"[*?]|\[.*\]|\{.*\}")
_CONFIG, _DOC, _GHOST = 1, 2, 64
_MACROS = {
    "debug_package": "%{nil}",
    "__os_install_post": "%{nil}",
    "_build_id_links": "none",
    "_buildhost": "bench.invalid",
    "_binary_payload": "w6.zstdio",
    "_binaries_in_noarch_packages_terminate_build": "0",
    "__brp_mangle_shebangs": "%{nil}",
    "_missing_doc_files_terminate_build": "0",
    "use_source_date_epoch_as_buildtime": "1",
    "clamp_mtime_to_source_date_epoch": "1",
}


@dataclass(frozen=True, slots=True)
class Generations:
    """A repository for each generation, and the names of the packages that change."""

    repositories: Sequence[Path]
    changed: Sequence[str]


def generations(
    source: Path, into: Path, chosen: Sequence[str] = (), count: int = COUNT
) -> Generations:
    """Make them below ``into``; unchanged packages are hard links.

    Without ``chosen``, a kernel, the largest library and other large packages are.
    Raises LookupError when a package is not there.
    """
    rpms = rpms_in(source)
    by_name = dict(zip(names(rpms), rpms, strict=True))
    changed = list(chosen) or choose(by_name)
    if missing := set(changed) - set(by_name):
        raise LookupError(f"not in {source}: {' '.join(sorted(missing))}")
    kept = [path for name, path in by_name.items() if name not in changed]
    repositories = [into / f"gen{number}" for number in range(1, count + 1)]
    for repository in repositories:
        link_all(kept, source, repository)
    for name in changed:
        _rebuild(by_name[name], repositories, into / "build")
    for repository in repositories:
        index(repository)
    return Generations(repositories, changed)


def choose(by_name: dict[str, Path]) -> list[str]:
    """Choose what changes: the kernel, the largest library, then the largest of the rest."""
    size = {name: path.stat().st_size for name, path in by_name.items()}
    able = (name for name in size if not name.startswith(_RUN))
    largest = sorted(able, key=lambda name: (-size[name], name))
    kernels = [name for name in largest if _kernel_version(by_name[name])][:1]
    libraries = [n for n in largest if n.startswith("lib") and size[n] < _LARGEST][:1]
    found = [*kernels, *libraries]
    for name in largest:
        if len(found) < _PACKAGES and name not in found and size[name] < _LARGEST:
            found.append(name)
    return found


def _kernel_version(rpm: Path) -> str:
    for path in query([rpm], "[%{FILENAMES}\n]"):
        if path.endswith("/vmlinuz") and (match := _KERNEL.match(path)):
            return match[1]
    return ""


# --- one package


def _rebuild(rpm: Path, repositories: Sequence[Path], work: Path) -> None:
    root = work / "root"
    root.mkdir(parents=True)
    unpacked = subprocess.run(["rpm2cpio", rpm], check=True, capture_output=True).stdout
    argv = ["cpio", "--extract", "--quiet", "--make-directories", "--no-absolute-filenames"]
    subprocess.run(argv, cwd=root, input=unpacked, check=True, capture_output=True)
    kernel = _kernel_version(rpm)
    for number, repository in enumerate(repositories, 1):
        changed = _change_files(root, number)
        moved = f"{kernel}.g{number}" if kernel else ""
        if kernel:
            _move_kernel(root, kernel if number == 1 else f"{kernel}.g{number - 1}", moved)
        if not changed:
            raise LookupError(f"{rpm.name} has no file that could change")
        spec = work / "package.spec"
        spec.write_text(_spec(rpm, number, root, (kernel, moved)))
        _build(spec, work, repository)
    shutil.rmtree(work)


def _move_kernel(root: Path, old: str, new: str) -> None:
    for parent in ("usr/lib/modules", "lib/modules"):
        if (root / parent / old).is_dir():
            (root / parent / old).rename(root / parent / new)


def _spec(rpm: Path, number: int, root: Path, kernel: tuple[str, str]) -> str:
    (line,) = query([rpm], "|".join(f"%{{{tag}}}" for tag in _FIELDS) + "\n")
    name, version, release, epoch, arch = line.split("|")
    provided = [p for p in query([rpm], "[%{PROVIDENEVRS}\n]") if not p.startswith("config(")]
    parts = [
        f"Name: {name}",
        f"Version: {version}",
        f"Release: {release}.g{number}",
        *([f"Epoch: {epoch}"] if epoch not in ("0", "(none)") else []),
        *(["BuildArch: noarch"] if arch == "noarch" else []),
        "Summary: a generation of a package",
        "License: as the package it was made from",
        "AutoReqProv: no",
        # What others ask for by its exact version is still there.
        *(f"Provides: {provide}" for provide in provided),
    ]
    for tag in ("Requires", "Conflicts", "Obsoletes"):
        needed = query([rpm], f"[%{{{tag.upper().removesuffix('S')}NEVRS}}\n]")
        keep = [n for n in needed if n and not n.startswith(("rpmlib(", "config("))]
        parts += [f"{tag}: {need}" for need in keep]
    parts += ["%description", "A generation of a package."]
    parts += ["%install", f"cp --archive '{root}/.' '%{{buildroot}}/'", "%files"]
    for line in query([rpm], f"[{_LINE}\n]"):
        mode, flags, user, group, path = line.split("|", 4)
        if int(flags) & _GHOST:
            continue  # there are none in a tree
        path = path.replace("/modules/{}".format(kernel[0] or "/"), f"/modules/{kernel[1]}")
        parts.append(_file_line(int(mode, 8), int(flags), user, group, path))
    return "\n".join(parts) + "\n"


def _file_line(mode: int, flags: int, user: str, group: str, path: str) -> str:
    words = []
    if not stat.S_ISLNK(mode):
        words.append(f"%attr({stat.S_IMODE(mode):04o},{user},{group})")
    marks = ((_CONFIG, "%config"), (_DOC, "%doc"))
    words += [mark for bit, mark in marks if flags & bit]
    if stat.S_ISDIR(mode):
        words.append("%dir")
    # rpm knows no way to write a name that is a pattern, but one that matches it.
    plain = re.sub(r"[\[\]{},*\\]", "?", path) if _PATTERN.search(path) else path
    plain = plain.replace("%", "%%")
    return " ".join([*words, f'"{plain}"' if " " in plain else plain])


def _build(spec: Path, work: Path, repository: Path) -> None:
    top = work / "top"
    macros = {**_MACROS, "_topdir": top, "_dbpath": top / "db", "_rpmdir": top / "out"}
    argv = ["rpmbuild", "-bb", "--quiet", "--nodeps"]
    for name, value in macros.items():
        argv += ["--define", f"{name} {value}"]
    environment = {**os.environ, "SOURCE_DATE_EPOCH": str(_MADE), "LC_ALL": "C.UTF-8"}
    subprocess.run([*argv, str(spec)], check=True, capture_output=True, env=environment)
    for built in (top / "out").rglob("*.rpm"):
        target = repository / "Packages" / built.name[0].lower() / built.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(built, target)
    shutil.rmtree(top)


# --- contents


def _change_files(root: Path, number: int) -> int:
    """Change up to so many files, others in each generation; returns how many."""
    done = 0
    for path in sorted(root.rglob("*"), key=lambda one: _pick(f"{number}:{_stable(one, root)}")):
        if done == _FILES:
            break
        if path.is_symlink() or not path.is_file():
            continue
        seed = f"{number}:{_stable(path, root)}"
        data = path.read_bytes()
        new = changed_content(data, _stable(path, root), seed)
        if new == data:
            continue
        mode = path.stat()
        path.unlink()  # it may be linked into an older generation's build
        path.write_bytes(new)
        path.chmod(stat.S_IMODE(mode.st_mode))
        os.utime(path, (_MADE, _MADE))
        done += 1
    return done


def _stable(path: Path, root: Path) -> str:
    return _KERNEL.sub("/usr/lib/modules/KERNEL", f"/{path.relative_to(root)}")


def _pick(seed: str) -> bytes:
    return hashlib.sha256(seed.encode()).digest()


def changed_content(data: bytes, path: str, seed: str) -> bytes:
    """Return other contents for a file, or the same when it had better stay as it is."""
    if data[:4] == b"\x7fELF":
        return _changed_code(data, seed)
    if not path.startswith(("/usr/share/", "/usr/lib/modules/")) or "/modules." in path:
        return data
    if data[:2] == b"\x1f\x8b":
        return gzip.compress(_changed_text(gzip.decompress(data), seed), 9, mtime=0)
    return _changed_text(data, seed)


def _changed_text(data: bytes, seed: str) -> bytes:
    """Put a line into a text after every sixteenth kilobyte, at an end of line."""
    if len(data) < 200:
        return data
    out, position, number = [], 0, 0
    while position < len(data):
        end = data.find(b"\n", min(position + 4 * _STEP, len(data) // 2 + position))
        end = len(data) if end < 0 else end + 1
        out.append(data[position:end])
        out.append(f"# {_pick(f'{seed}:{number}').hex()[:40]}\n".encode())
        position, number = end, number + 1
    return b"".join(out)


def _changed_code(data: bytes, seed: str) -> bytes:
    """Overwrite twelve bytes in every page of a program's code; the rest stays readable."""
    start, size = _text_section(data)
    out = bytearray(data)
    for number, position in enumerate(range(start + 64, start + size - 64, _STEP)):
        out[position : position + 12] = _pick(f"{seed}:{number}")[:12]
    return bytes(out)


def _text_section(data: bytes) -> tuple[int, int]:
    """Return where the largest executable section of a 64-bit ELF file is; (0, 0) without."""
    if len(data) < 64 or data[4:6] != b"\x02\x01":
        return 0, 0
    (table,) = struct.unpack_from("<Q", data, 40)
    size, count = struct.unpack_from("<HH", data, 58)
    best = (0, 0)
    for number in range(count):
        at = table + number * size
        if at + 64 > len(data):
            break
        kind, flags, _, offset, length = struct.unpack_from("<IQQQQ", data, at + 4)
        if kind == 1 and flags & 4 and length > best[1] and offset + length <= len(data):
            best = (offset, length)
    return best
