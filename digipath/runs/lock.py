"""Who works on a slide: a file with a heartbeat in the result folder, so that several processes can share an output.

Locks are numbered, `.lock.1`, `.lock.2`, ..., and the highest counts. A lock is taken by making the next number, which
the file system lets only one process do, whether the place was free or the holder of the number before is dead. So
there is no moment in which two processes both believe that they took over, or in which a live lock is gone.

Assumed: links or exclusive creation are atomic on the disk (local disks, NFS 3 and newer, SMB), and the clocks of the
machines agree to less than the expiry. Times are those that the holder wrote, never the disk's.
"""

import json
import os
import socket
import threading
import time
import uuid
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from digipath.errors import DigipathError, ResultError
from digipath.runs.task import RunSettings

__all__ = ["Holder", "Lock", "Locked", "holder_of"]

_PREFIX = ".lock."
# Holders are rewritten in place, so every one fills the same number of bytes.
_BYTES = 1024
_NUMBERS = ("pid", "since", "beat", "expiry", "done", "total", "moved")
_POLL = 0.5
_SPIN = 0.02


class Locked(DigipathError):
    """Another process has the slide."""


@dataclass(frozen=True, kw_only=True)
class Holder:
    """Who has a slide, as its lock says.

    Attributes:
        token: Of this lock alone.
        host: Name of the machine.
        system: What tells machines of one name, their restarts and their containers apart; empty where not known.
        pid: Of the process.
        born: When the process began, as its system counts; tells it from a later one of the same number.
        since: When the lock was taken, in seconds since 1970 by the holder's clock.
        beat: The last heartbeat, likewise.
        expiry: Seconds after a heartbeat that the lock is good for.
        done: Patches predicted.
        total: Patches to predict; 0 while that is not known.
        moved: When `done` last grew.
    """

    token: str
    host: str
    system: str
    pid: int
    born: str
    since: float
    beat: float
    expiry: float
    done: int = 0
    total: int = 0
    moved: float = 0.0

    @property
    def is_dead(self) -> bool:
        """Whether the lock may be taken over: no heartbeat for too long, or a process of this machine that is gone."""
        if time.time() - self.beat > self.expiry:
            return True
        here = self.host == socket.gethostname() and self.system == _system()
        return here and bool(self.system) and _born(self.pid) != self.born

    def __str__(self) -> str:
        far = f", {self.done} of {self.total} patches" if self.total else ""
        still = f", none for {time.time() - self.moved:.0f} s" if self.total and self.moved < self.beat - 60 else ""
        return f"process {self.pid} on {self.host} has it since {_clock(self.since)}{far}{still}"


class Lock:
    """Holds a slide's folder while its block runs; leaving it, however that is, gives the folder free.

    A thread renews the heartbeat. Where a slide has a time limit and nothing has moved for so long and an expiry more,
    as when a library hangs in a read, the heartbeat ends by itself: then others may take the slide.

    Args:
        folder: The result folder; made if need be, and removed at the end if nothing was put into it.
        settings: How long a lock is good for, how often it is renewed, how long another's is waited for.

    Raises:
        Locked: Another process has it.
    """

    def __init__(self, folder: Path, settings: RunSettings):
        self.folder, self.settings = folder, settings
        self._number = 0
        self._left, self._lost = threading.Event(), threading.Event()
        self._mutex = threading.Lock()
        self._thread = threading.Thread(target=self._renew, name=f"heartbeat of {folder.name}", daemon=True)

    def __enter__(self) -> "Lock":
        give_up = time.monotonic() + self.settings.wait
        try:
            while (holder := self._take()) is not None:
                if time.monotonic() >= give_up:
                    self._tidy()
                    raise Locked(f"{holder}.")
                time.sleep(min(_POLL, self.settings.heartbeat))
        except OSError as error:
            raise ResultError(f"a result is written to a folder, and {self.folder} cannot be: {error}.") from error
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        self._thread.join(self.settings.heartbeat)
        if self._is_ours():
            for number, path in _locks(self.folder):  # the own one last
                if number <= self._number:
                    path.unlink(missing_ok=True)
        self._tidy()

    def beat(self, done: int, total: int) -> None:
        """Note how far the slide is; the next heartbeat tells it.

        Raises:
            Locked: Another process has taken the slide over, because no heartbeat reached it for too long.
        """
        if self._lost.is_set():
            raise Locked("another process took it over, because this one gave no sign of life for too long.")
        with self._mutex:
            self._holder = replace(self._holder, done=done, total=total, moved=time.time())

    @property
    def _path(self) -> Path:
        return self.folder / f"{_PREFIX}{self._number}"

    def _is_ours(self) -> bool:
        found = _read(self._path)
        return found is not None and found.token == self._holder.token

    def _take(self) -> Holder | None:
        """Make the next lock; the live holder that is in the way, if there is one."""
        while True:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
            except FileExistsError:
                if self.folder.is_file():
                    raise
                continue  # another process has just removed it
            highest, holder = _highest(self.folder)
            if holder is not None and not holder.is_dead:
                return holder
            if (holder is not None or not highest) and self._make(highest + 1, holder):
                return None
            time.sleep(_SPIN)  # somebody was quicker, or left as this process looked

    def _make(self, number: int, dead: Holder | None) -> bool:
        """Try to be the one who makes this number, in place of the dead holder of the number before, if there is one.

        The dead lock is removed by whoever succeeds. So if it has gone by now, somebody took over and even left again
        since it was looked at; and if there is a higher number, this one was made too late.
        """
        self._number, self._holder = number, _this_process(self.settings.expiry)
        try:
            _create(self._path, _encoded(self._holder))
        except (FileNotFoundError, FileExistsError):  # another left, and removed the empty folder; or was quicker
            return False
        before = _read(self.folder / f"{_PREFIX}{number - 1}") if dead else None
        if _highest(self.folder)[0] != number or (before and before.token) != (dead and dead.token):
            if self._is_ours():
                self._path.unlink(missing_ok=True)
            return False
        for lower, path in _locks(self.folder):
            if lower < number:
                path.unlink(missing_ok=True)
        return True

    def _renew(self) -> None:
        while not self._left.wait(self.settings.heartbeat):
            with self._mutex:
                holder = self._holder = replace(self._holder, beat=time.time())
            limit = self.settings.time_limit
            if limit is not None and holder.beat - (holder.moved or holder.since) > limit + self.settings.expiry:
                continue
            try:
                alive = self._write(holder)
            except OSError:  # a full or absent disk: the next beat may get through, and else the lock expires
                continue
            if not alive:
                self._lost.set()
                return

    def _write(self, holder: Holder) -> bool:
        """Renew in place, as a lock that another process has removed must not come back; whether it is ours still."""
        try:
            with self._path.open("r+b", buffering=0) as file:
                if json.loads(file.read())["token"] != holder.token:
                    return False
                file.seek(0)
                file.write(_encoded(holder))
                os.fsync(file.fileno())
        except (FileNotFoundError, ValueError, KeyError):
            return False
        return True

    def _tidy(self) -> None:
        try:
            self.folder.rmdir()
        except OSError:  # it holds something, or another process was quicker
            return


def holder_of(folder: Path) -> Holder | None:
    """The live holder of a result folder, if there is one."""
    holder = _highest(folder)[1]
    return None if holder is None or holder.is_dead else holder


def _locks(folder: Path) -> list[tuple[int, Path]]:
    try:
        found = [path for path in folder.iterdir() if path.name.startswith(_PREFIX)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    numbered = ((path.name.removeprefix(_PREFIX), path) for path in found)
    return sorted((int(number), path) for number, path in numbered if number.isdecimal())


def _highest(folder: Path) -> tuple[int, Holder | None]:
    """The highest number, 0 if there is none, and its holder, None if it has gone meanwhile."""
    locks = _locks(folder)
    if not locks:
        return 0, None
    number, path = locks[-1]
    return number, _read(path)


def _read(path: Path) -> Holder | None:
    """What a lock says; one that says nothing is dead once it is old."""
    known = {one.name for one in fields(Holder)}
    try:
        values = json.loads(path.read_bytes())
        holder = Holder(**{name: value for name, value in values.items() if name in known})
        return holder if all(isinstance(getattr(holder, name), int | float) for name in _NUMBERS) else _silent(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, AttributeError):
        return _silent(path)


def _silent(path: Path) -> Holder | None:
    """The holder of a lock that cannot be read: one that is being written, or was when its disk filled."""
    try:
        changed = path.stat().st_mtime
    except OSError:
        return None
    expiry = RunSettings().expiry
    return Holder(token="", host="unknown", system="", pid=0, born="", since=changed, beat=changed, expiry=expiry)


def _create(path: Path, content: bytes) -> None:
    """Make a file with its content at once, or raise FileExistsError."""
    whole = path.with_name(f".{path.name.lstrip('.')}.{uuid.uuid4().hex[:12]}.part")
    try:
        whole.write_bytes(content)
        try:
            os.link(whole, path)
        except FileExistsError:
            raise
        except OSError:  # a disk without links, such as FAT
            with path.open("xb") as file:
                file.write(content)
    finally:
        whole.unlink(missing_ok=True)


def _encoded(holder: Holder) -> bytes:
    return json.dumps(asdict(holder)).encode().ljust(_BYTES - 1) + b"\n"


def _this_process(expiry: float) -> Holder:
    now, pid = time.time(), os.getpid()
    whose = {"host": socket.gethostname(), "system": _system(), "pid": pid, "born": _born(pid)}
    return Holder(token=uuid.uuid4().hex, **whose, since=now, beat=now, expiry=expiry)


def _system() -> str:
    """The running system and its space of process numbers, on Linux; a container has one of its own."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _born(pid: int) -> str:
    """When a process began, in ticks of its system's clock; empty where there is no such process or it is a zombie."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if after_name[0] in "ZX" else after_name[19]


def _clock(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
