"""One function over many pieces, in order: in this process, in several of this machine, or on a Ray cluster.

Which of them is chosen outside (`athanor run … --workers 4 --engine ray`), never in a step's settings: a step asks for
`current()` and gets the same results from every one, so an artifact has the same bytes and name whoever did the work.
Memory: pieces and results of at most two per worker and the one being used. A worker that dies (out of memory, kill -9)
loses nothing: its piece is done again by a new one; a piece whose worker dies three times is named and the work stops.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Literal, TypeVar

from athanor.base.errors import AthanorError

Engine = Literal["local", "ray"]
ENGINES: tuple[Engine, ...] = ("local", "ray")
MOST_DEATHS = 3  # of workers at one piece
AHEAD = 2  # pieces per worker that are begun or done and not yet asked for
Piece = TypeVar("Piece")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Workers:
    """Who works.

    Attributes:
        count: how many processes; 1 of engine local is this process itself. None: one for every processor of the
            cluster (ray), or 1 (local).
        engine: processes of this machine, or Ray (`pip install 'athanor[ray]'`), which joins the cluster of RAY_ADDRESS
            or of this machine, and else starts one here.
    """

    count: int | None = None
    engine: Engine = "local"

    @property
    def alone(self) -> bool:
        """Whether this process does everything itself."""
        return self.engine == "local" and self.count in (None, 1)

    def map(
        self, work: Callable[[Piece], Result], pieces: Iterable[Piece], name: Callable[[Piece], str]
    ) -> Iterator[Result]:
        """`work` of each piece, in the order of the pieces.

        Args:
            work: a function at the top of a module, or a `functools.partial` of one; its result depends on the piece
                alone.
            pieces: read as they are needed; each can be pickled.
            name: what a piece is called in messages.

        Raises:
            AthanorError: a piece killed its workers, or Ray is not installed.
            Exception: whatever `work` raises, where its piece stands in the order.
        """
        if self.engine == "ray":
            return _on_ray(work, pieces, name, self.count)
        if self.alone:
            return map(work, pieces)
        assert self.count is not None
        return _in_processes(work, pieces, name, self.count)


ALONE = Workers()
_CURRENT: ContextVar[Workers] = ContextVar("workers", default=ALONE)


def current() -> Workers:
    """Who works now."""
    return _CURRENT.get()


@contextlib.contextmanager
def using(workers: Workers) -> Iterator[None]:
    """Within the block, steps work with these.

    Raises:
        AthanorError: fewer than one worker.
    """
    if workers.count is not None and workers.count < 1:
        raise AthanorError(f"{workers.count} workers", allowed="1 and more", fix="--workers 2")
    if workers.engine == "ray":
        _import_ray()
    token = _CURRENT.set(workers)
    try:
        yield
    finally:
        _CURRENT.reset(token)


def killed(name: str, times: int) -> AthanorError:
    """The error about a piece that nobody survives."""
    return AthanorError(
        f"{name}: {times} workers died of it, one after the other",
        allowed="pieces that fit into memory, and workers that nobody kills",
        fix="give it more memory or fewer --workers; or take the piece out of the source and look at it",
    )


def _serve(work: Callable[[Any], Any], pipe: Connection) -> None:
    """The life of a local worker: a piece in, its outcome back, until the pipe ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: the parent saves and ends us
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            piece = pipe.recv()
            try:
                outcome = (True, work(piece))
            except Exception as problem:  # noqa: BLE001 - it is raised again where the results are asked for
                outcome = (False, problem)
            pipe.send(outcome)


@dataclass
class _Worker:
    """A process, this end of its pipe, and the number of the piece it works on."""

    process: BaseProcess
    pipe: Connection
    number: int | None = None


@dataclass
class _Pool:
    """Local processes; each has one piece at a time, so it is known which one a dead worker had."""

    work: Callable[[Any], Any]
    workers: list[_Worker] = field(default_factory=list)

    def begin(self) -> _Worker:
        context = multiprocessing.get_context("spawn")  # a fork would copy the locks of other threads
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(self.work, theirs), daemon=True)
        process.start()
        theirs.close()
        self.workers.append(_Worker(process, ours))
        return self.workers[-1]

    def end(self, worker: _Worker) -> None:
        worker.pipe.close()
        worker.process.kill()
        worker.process.join()
        self.workers.remove(worker)

    def __enter__(self) -> "_Pool":
        return self

    def __exit__(self, *problem: object) -> None:
        for worker in list(self.workers):
            self.end(worker)


def _in_processes(
    work: Callable[[Piece], Result], pieces: Iterable[Piece], name: Callable[[Piece], str], count: int
) -> Iterator[Result]:
    coming = enumerate(pieces)
    given: dict[int, Piece] = {}  # begun or waiting to be done again
    again: list[int] = []
    done: dict[int, tuple[bool, Any]] = {}
    deaths: dict[int, int] = {}
    wanted = 0
    with _Pool(work) as pool:
        while True:
            while len(given) + len(done) < AHEAD * count and (following := next(coming, None)) is not None:
                number, given[number] = following[0], following[1]
                again.append(number)
            if not given and not done:
                return
            _give_out(pool, again, given, count)
            _take_in(pool, given, again, done, deaths, name)
            while wanted in done:
                fine, outcome = done.pop(wanted)
                wanted += 1
                if not fine:
                    raise outcome
                yield outcome


def _give_out(pool: _Pool, waiting: list[int], given: dict[int, Any], count: int) -> None:
    """Give waiting pieces, the earliest first, to workers that have none; begin workers while there are too few."""
    waiting.sort()
    idle = [worker for worker in pool.workers if worker.number is None]
    while len(idle) < len(waiting) and len(pool.workers) < count:
        idle.append(pool.begin())
    for worker in idle[: len(waiting)]:
        worker.number = waiting.pop(0)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it died: `_take_in` will see that
            worker.pipe.send(given[worker.number])


def _take_in(
    pool: _Pool,
    given: dict[int, Any],
    waiting: list[int],
    done: dict[int, tuple[bool, Any]],
    deaths: dict[int, int],
    name: Callable[[Any], str],
) -> None:
    """Wait for outcomes and deaths; what a dead worker had waits again."""
    busy = {worker.pipe: worker for worker in pool.workers if worker.number is not None}
    for pipe in wait(list(busy)):
        worker = busy[pipe]  # type: ignore[index]
        number = worker.number
        assert number is not None
        try:
            done[number] = worker.pipe.recv()
            given.pop(number)
            worker.number = None
        except (EOFError, OSError):  # it ended before, or in the middle of, its answer
            pool.end(worker)
            deaths[number] = deaths.get(number, 0) + 1
            if deaths[number] == MOST_DEATHS:
                raise killed(name(given[number]), MOST_DEATHS) from None
            waiting.append(number)


def _import_ray() -> Any:
    try:
        import ray
    except ImportError:
        raise AthanorError(
            "--engine ray: Ray is not installed", allowed=", ".join(ENGINES), fix="pip install 'athanor[ray]'"
        ) from None
    return ray


def _on_ray(
    work: Callable[[Piece], Result], pieces: Iterable[Piece], name: Callable[[Piece], str], count: int | None
) -> Iterator[Result]:
    """The same on Ray, which begins the piece of a dead worker again by itself, on another node if its own is gone."""
    ray = _import_ray()
    if not ray.is_initialized():
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # tells nobody that it runs
        ray.init(log_to_driver=False, logging_level="ERROR", runtime_env={"env_vars": {"PYTHONPATH": _path()}})
    task = ray.remote(num_cpus=1, max_retries=MOST_DEATHS - 1)(_one).options(name=getattr(work, "__name__", "piece"))
    shared = ray.put(work)
    most = AHEAD * (count or max(1, int(ray.cluster_resources().get("CPU", 1))))
    begun: list[tuple[Any, Piece]] = []
    for piece in pieces:
        begun.append((task.remote(shared, piece), piece))
        if len(begun) >= most:
            yield _result(ray, *begun.pop(0), name)
    while begun:
        yield _result(ray, *begun.pop(0), name)


def _one(work: Callable[[Any], Any], piece: Any) -> tuple[bool, Any]:
    try:
        return True, work(piece)
    except Exception as problem:  # noqa: BLE001 - it is raised again where the results are asked for
        return False, problem


def _result(ray: Any, task: Any, piece: Any, name: Callable[[Any], str]) -> Any:
    try:
        fine, outcome = ray.get(task)
    except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError):
        raise killed(name(piece), MOST_DEATHS) from None
    if not fine:
        raise outcome
    return outcome


def _path() -> str:
    """Where Ray's workers find what this process finds."""
    return ":".join(place for place in sys.path if place)
