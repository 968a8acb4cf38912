"""Walls around the learner's process: it reads libraries and its folder, writes only its folder, talks to nobody.

Linux only, unprivileged, by system call: no_new_privs, Landlock (files), seccomp (network, programs, other
processes, file modes, which Landlock does not cover), resource limits. Each wall that cannot be had is reported; with
mode "require" its lack is an error. Sources: landlock(7), seccomp(2), linux/bpf_common.h, the kernel's syscall tables.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
import stat
import struct
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from learner.canonical import STATE_BYTES_MAX
from learner.protocol import Walls

MODES: Final = ("require", "try", "off")
OPEN_FILES_MAX: Final = 256

_PR_SET_DUMPABLE: Final = 4
_PR_SET_NO_NEW_PRIVS: Final = 38

# Landlock: system calls have the same numbers on every machine.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 2, 4, 8
_REMOVE_FILE, _MAKE_REG, _TRUNCATE = 1 << 5, 1 << 8, 1 << 14
_ON_FILES: Final = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE
_LIBRARY: Final = _READ_FILE | _READ_DIR | _EXECUTE  # mapping a shared library asks for nothing more
_FOLDER: Final = _READ_FILE | _READ_DIR | _WRITE_FILE | _REMOVE_FILE | _MAKE_REG | _TRUNCATE
_FILE_RIGHTS_BY_ABI: Final = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}  # how many low bits the ABI knows
_NETWORK_ABI, _SCOPE_ABI = 4, 6

_SYSTEM_LIBRARIES: Final = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib")
_SYSTEM_FILES: Final = (
    "/proc/cpuinfo",
    "/sys/devices/system/cpu",
    "/sys/devices/system/node",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/usr/share/zoneinfo",
    "/dev/urandom",
)

# Refused system calls: (x86_64, aarch64), None where the machine has no such call.
_REFUSED: Final[dict[str, tuple[int | None, int | None]]] = {
    "socket": (41, 198),
    "socketpair": (53, 199),
    "connect": (42, 203),
    "bind": (49, 200),
    "listen": (50, 201),
    "accept": (43, 202),
    "accept4": (288, 242),
    "execve": (59, 221),
    "execveat": (322, 281),
    "fork": (57, None),
    "vfork": (58, None),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    "kcmp": (312, 272),
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "open_by_handle_at": (304, 265),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, None),
    "lchown": (94, None),
    "fchown": (93, 55),
    "fchownat": (260, 54),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
}
_MACHINES: Final = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column above, AUDIT_ARCH
_CLONE, _CLONE3 = (56, 220), 435
_CLONE_THREAD: Final = 0x10000
_SECCOMP: Final = (317, 277)
_X32_BIT: Final = 0x40000000

_LOAD, _IF_EQUAL, _IF_AT_LEAST, _IF_ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_AT_NUMBER, _AT_ARCHITECTURE, _AT_FIRST_ARGUMENT = 0, 4, 16


class WallMissing(Exception):
    """Mode "require", and a wall could not be raised."""


def raise_walls(folder: Path, memory_max: int, mode: str, uses_cuda: bool) -> Walls:
    """Wall this process in, for good.

    Args:
        folder: the only place that stays writable; absolute.
        memory_max: bytes of private memory; not enforced with CUDA.
        mode: one of MODES.
        uses_cuda: a CUDA driver opens devices, maps huge ranges and starts helpers: only no_new_privs stands then.
    Raises:
        WallMissing: mode is "require" and not all walls stand.
    """
    if mode == "off":
        return Walls(missing=("sandbox: switched off",))
    missing: list[str] = []

    def attempt(name: str, build: Callable[[], int]) -> int:
        try:
            return build()
        except (OSError, ValueError) as error:
            missing.append(f"{name}: {error}")
            return 0

    no_new_privileges = attempt("no_new_privs", _no_new_privileges)
    if uses_cuda:
        missing.append("landlock, seccomp, limits: not with CUDA")
        limits = landlock = seccomp = 0
    else:
        limits = attempt("limits", lambda: _limits(memory_max))
        landlock = attempt("landlock", lambda: _landlock(folder))
        seccomp = attempt("seccomp", _seccomp)
    if mode == "require" and missing:
        raise WallMissing(f"the sandbox is required and not whole: {'; '.join(missing)}")
    return Walls(
        no_new_privileges=bool(no_new_privileges),
        landlock_abi=landlock,
        seccomp=bool(seccomp),
        limits=bool(limits),
        missing=tuple(missing),
    )


def _call(number: int, *arguments: int | bytes | None) -> int:
    library = ctypes.CDLL(None, use_errno=True)
    words = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    result = int(library.syscall(ctypes.c_long(number), *words))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def _no_new_privileges() -> int:
    library = ctypes.CDLL(None, use_errno=True)
    if library.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")
    library.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)  # processes of the same user cannot read our memory
    return 1


def _limits(memory_max: int) -> int:
    limits = {
        resource.RLIMIT_DATA: memory_max,
        resource.RLIMIT_FSIZE: STATE_BYTES_MAX,
        resource.RLIMIT_NOFILE: OPEN_FILES_MAX,
        resource.RLIMIT_CORE: 0,
    }
    for what, value in limits.items():
        resource.setrlimit(what, (value, value))
    return 1


def _landlock(folder: Path) -> int:
    """Returns the kernel's ABI version."""
    abi = _call(_CREATE_RULESET, None, 0, 1)
    known = (1 << _FILE_RIGHTS_BY_ABI[min(abi, max(_FILE_RIGHTS_BY_ABI))]) - 1
    network = 3 if abi >= _NETWORK_ABI else 0  # bind and connect over TCP: handled, and no rule allows any
    scope = 3 if abi >= _SCOPE_ABI else 0  # abstract Unix sockets and signals stay inside
    words = 3 if abi >= _SCOPE_ABI else 2 if abi >= _NETWORK_ABI else 1
    attributes = struct.pack("QQQ", known, network, scope)[: 8 * words]
    rules = _call(_CREATE_RULESET, attributes, len(attributes), 0)
    try:
        for path in _libraries():
            _allow(rules, path, _LIBRARY & known)
        for path in _SYSTEM_FILES:
            _allow(rules, path, (_READ_FILE | _READ_DIR) & known)
        _allow(rules, os.devnull, (_READ_FILE | _WRITE_FILE) & known)
        _allow(rules, str(folder), _FOLDER & known)
        _call(_RESTRICT_SELF, rules, 0)
    finally:
        os.close(rules)
    return abi


def _libraries() -> Iterable[str]:
    yield from _SYSTEM_LIBRARIES
    yield from {os.path.realpath(prefix) for prefix in (sys.prefix, sys.base_prefix)}
    yield from (entry for entry in sys.path if Path(entry).name in ("site-packages", "dist-packages"))
    yield str(Path(__file__).resolve().parent)


def _allow(rules: int, path: str, rights: int) -> None:
    try:
        handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return  # not every system has every one
    try:
        if not stat.S_ISDIR(os.fstat(handle).st_mode):
            rights &= _ON_FILES
        _call(_ADD_RULE, rules, 1, struct.pack("=Qi", rights, handle), 0)
    finally:
        os.close(handle)


def _seccomp() -> int:
    machine = platform.machine()
    if machine not in _MACHINES:
        raise ValueError(f"no table for {machine}")
    column, architecture = _MACHINES[machine]
    program = b"".join(_filter(column, architecture))
    buffer = ctypes.create_string_buffer(program)
    header = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(buffer))
    _call(_SECCOMP[column], 1, 1, header)  # SECCOMP_SET_MODE_FILTER, for all threads
    return 1


def _filter(column: int, architecture: int) -> list[bytes]:
    """The BPF program: refuse with EPERM what is in the table, allow the rest; threads, but no processes."""

    def instruction(code: int, if_true: int, if_false: int, value: int) -> bytes:
        return struct.pack("HBBI", code, if_true, if_false, value)

    refuse = instruction(_RETURN, 0, 0, _ERRNO | errno.EPERM)
    allow = instruction(_RETURN, 0, 0, _ALLOW)
    kill = instruction(_RETURN, 0, 0, _KILL)
    program = [
        instruction(_LOAD, 0, 0, _AT_ARCHITECTURE),
        instruction(_IF_EQUAL, 1, 0, architecture),
        kill,
        instruction(_LOAD, 0, 0, _AT_NUMBER),
    ]
    if column == 0:  # the x32 calls of x86_64 would go around the table
        program += [instruction(_IF_AT_LEAST, 0, 1, _X32_BIT), kill]
    for numbers in _REFUSED.values():
        if (number := numbers[column]) is not None:
            program += [instruction(_IF_EQUAL, 0, 1, number), refuse]
    # The flags of clone3 are behind a pointer; told that it does not exist, the C library uses clone.
    program += [instruction(_IF_EQUAL, 0, 1, _CLONE3), instruction(_RETURN, 0, 0, _ERRNO | errno.ENOSYS)]
    program += [
        instruction(_IF_EQUAL, 0, 3, _CLONE[column]),
        instruction(_LOAD, 0, 0, _AT_FIRST_ARGUMENT),
        instruction(_IF_ANY_BIT, 1, 0, _CLONE_THREAD),
        refuse,
        allow,
    ]
    return program
