"""The system calls that the learner's process may not make, and the filter that refuses them (seccomp(2), BPF).

Landlock guards files by their paths; this guards what it does not cover: sockets, programs, other processes, memory
that no limit counts, what is shared between processes, and changes to files that need no opening. Numbers are from the
kernel's tables (x86_64: arch/x86/entry/syscalls/syscall_64.tbl, aarch64: include/uapi/asm-generic/unistd.h).
"""

from __future__ import annotations

import errno
import struct
from typing import Final

# Refused: (x86_64, aarch64), None where the machine has no such call.
REFUSED: Final[dict[str, tuple[int | None, int | None]]] = {
    # network, and any other socket
    "socket": (41, 198), "socketpair": (53, 199), "connect": (42, 203), "bind": (49, 200), "listen": (50, 201),
    "accept": (43, 202), "accept4": (288, 242), "io_uring_setup": (425, 425),
    # programs and processes
    "execve": (59, 221), "execveat": (322, 281), "fork": (57, None), "vfork": (58, None), "ptrace": (101, 117),
    "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "process_madvise": (440, 440),
    "process_mrelease": (448, 448), "pidfd_open": (434, 434), "pidfd_getfd": (438, 438),
    "pidfd_send_signal": (424, 424), "kcmp": (312, 272), "kill": (62, 129), "tkill": (200, 130),
    "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240), "setpriority": (141, 140),
    "ioprio_set": (251, 30), "move_pages": (279, 239), "migrate_pages": (256, 238),
    # memory that RLIMIT_DATA does not count, and what processes share
    "memfd_create": (319, 279), "memfd_secret": (447, 447), "shmget": (29, 194), "shmat": (30, 196),
    "shmctl": (31, 195), "semget": (64, 190), "semop": (65, 193), "semctl": (66, 191), "semtimedop": (220, 192),
    "msgget": (68, 186), "msgsnd": (69, 189), "msgrcv": (70, 188), "msgctl": (71, 187), "mq_open": (240, 180),
    "mq_unlink": (241, 181),
    # the kernel
    "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "bpf": (321, 280), "perf_event_open": (298, 241),
    "userfaultfd": (323, 282), "open_by_handle_at": (304, 265), "add_key": (248, 217), "request_key": (249, 218),
    "keyctl": (250, 219),
    # files, by path or by handle
    "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452), "chown": (92, None),
    "lchown": (94, None), "fchown": (93, 55), "fchownat": (260, 54), "setxattr": (188, 5), "lsetxattr": (189, 6),
    "fsetxattr": (190, 7), "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16),
    "truncate": (76, 45), "utime": (132, None), "utimes": (235, None), "futimesat": (261, None),
    "utimensat": (280, 88), "inotify_init": (253, None), "inotify_init1": (294, 26), "fanotify_init": (300, 262),
}  # fmt: skip

# Allowed on this process alone: the first argument is 0 or its id.
ON_ITSELF: Final[dict[str, tuple[int, int]]] = {
    "tgkill": (234, 131), "prlimit64": (302, 261), "sched_setaffinity": (203, 122), "sched_setscheduler": (144, 119),
    "sched_setparam": (142, 118), "sched_setattr": (314, 274),
}  # fmt: skip

MACHINES: Final = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column above, AUDIT_ARCH
SECCOMP: Final = (317, 277)
_CLONE, _CLONE3 = (56, 220), 435
_CLONE_THREAD: Final = 0x10000
_MMAP: Final = (9, 222)
_MAP_SHARED, _MAP_ANONYMOUS, _MAP_GROWSDOWN = 0x01, 0x20, 0x100
_X32_BIT: Final = 0x40000000

_LOAD, _IF_EQUAL, _IF_AT_LEAST, _IF_ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_AT_NUMBER, _AT_ARCHITECTURE, _AT_ARGUMENTS = 0, 4, 16


def _instruction(code: int, if_true: int, if_false: int, value: int) -> bytes:
    return struct.pack("HBBI", code, if_true, if_false, value)


def _return(action: int) -> bytes:
    return _instruction(_RETURN, 0, 0, action)


def _load_argument(index: int) -> bytes:
    """The low half of an argument; all machines here are little-endian."""
    return _instruction(_LOAD, 0, 0, _AT_ARGUMENTS + 8 * index)


_REFUSE: Final = _return(_ERRNO | errno.EPERM)
_PASS: Final = _return(_ALLOW)


def program(column: int, architecture: int, pid: int) -> bytes:
    """The BPF program: refuse with EPERM what is in the tables, allow the rest; threads, but no processes.

    Args:
        column, architecture: from MACHINES.
        pid: of the process that it will guard.
    """
    parts = [
        _instruction(_LOAD, 0, 0, _AT_ARCHITECTURE),
        _instruction(_IF_EQUAL, 1, 0, architecture),
        _return(_KILL),
        _instruction(_LOAD, 0, 0, _AT_NUMBER),
    ]
    if column == 0:  # the x32 calls of x86_64 would go around the table
        parts += [_instruction(_IF_AT_LEAST, 0, 1, _X32_BIT), _return(_KILL)]
    for numbers in REFUSED.values():
        if (number := numbers[column]) is not None:
            parts += [_instruction(_IF_EQUAL, 0, 1, number), _REFUSE]
    # The flags of clone3 are behind a pointer; told that it does not exist, the C library uses clone.
    parts += [_instruction(_IF_EQUAL, 0, 1, _CLONE3), _return(_ERRNO | errno.ENOSYS)]
    for numbers in ON_ITSELF.values():
        parts += _when(
            numbers[column],
            _load_argument(0),
            _instruction(_IF_EQUAL, 2, 0, 0),
            _instruction(_IF_EQUAL, 1, 0, pid),
            _REFUSE,
            _PASS,
        )
    parts += _when(_CLONE[column], _load_argument(0), _instruction(_IF_ANY_BIT, 1, 0, _CLONE_THREAD), _REFUSE, _PASS)
    parts += _when(  # neither shared memory without a file nor a mapping that grows is counted as data
        _MMAP[column],
        _load_argument(3),
        _instruction(_IF_ANY_BIT, 2, 0, _MAP_GROWSDOWN),
        _instruction(_IF_ANY_BIT, 0, 2, _MAP_SHARED),
        _instruction(_IF_ANY_BIT, 0, 1, _MAP_ANONYMOUS),
        _REFUSE,
        _PASS,
    )
    return b"".join((*parts, _PASS))


def _when(number: int, *then: bytes) -> list[bytes]:
    """`then`, which ends in a return, for one call; the call's number is still loaded for all others."""
    return [_instruction(_IF_EQUAL, 0, len(then), number), *then]
