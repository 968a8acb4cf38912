"""Walls around the learner's process: it reads libraries and its folder, writes only its folder, talks to nobody.

Linux only, unprivileged, by system call: no_new_privs, no capabilities, Landlock (files), seccomp (learner.seccomp:
network, programs, other processes, what Landlock does not cover), resource limits. Each wall that cannot be had is
reported; with mode "require" its lack is an error. What is left to see: names, sizes and times of files (stat needs no
opening), and that others' processes exist. Sources: landlock(7), seccomp(2), capabilities(7), getrlimit(2).
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import stat
import struct
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from learner import seccomp
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

# Landlock holds for root too, but not what else root may do: what is kept only overrides the modes of files.
_CAPSET: Final = (126, 91)
_CAPABILITIES_VERSION: Final = 0x20080522
_KEPT_CAPABILITIES: Final = 1 << 1 | 1 << 2  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH


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
        missing.append("capabilities, landlock, seccomp, limits: not with CUDA")
        capabilities = limits = landlock = system_calls = 0
    else:
        capabilities = attempt("capabilities", _capabilities)
        limits = attempt("limits", lambda: _limits(memory_max))
        landlock = attempt("landlock", lambda: _landlock(folder))
        system_calls = attempt("seccomp", _seccomp)
    if mode == "require" and missing:
        raise WallMissing(f"the sandbox is required and not whole: {'; '.join(missing)}")
    return Walls(
        no_new_privileges=bool(no_new_privileges),
        no_capabilities=bool(capabilities),
        landlock_abi=landlock,
        seccomp=bool(system_calls),
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


def _capabilities() -> int:
    """Give up, for good, what root may do beyond reading and writing where the modes of files forbid it."""
    column, _ = _machine()
    header = struct.pack("Ii", _CAPABILITIES_VERSION, 0)
    now = ctypes.create_string_buffer(24)
    _call(_CAPSET[column] - 1, header, ctypes.addressof(now))  # capget
    kept = [words & _KEPT_CAPABILITIES for words in struct.unpack("6I", now.raw)[:2]]
    _call(_CAPSET[column], header, struct.pack("6I", *kept, 0, 0, 0, 0))
    return 1


def _seccomp() -> int:
    column, architecture = _machine()
    program = seccomp.program(column, architecture, os.getpid())
    buffer = ctypes.create_string_buffer(program)
    header = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(buffer))
    _call(seccomp.SECCOMP[column], 1, 1, header)  # SECCOMP_SET_MODE_FILTER, for all threads
    return 1


def _machine() -> tuple[int, int]:
    machine = platform.machine()
    if machine not in seccomp.MACHINES:
        raise ValueError(f"no table for {machine}")
    return seccomp.MACHINES[machine]
