r"""Computations that are recorded once and replayed: CUDA graphs.

At the published batches of 100 the host is what binds a GPU: a step is some thousand operations, sent one by one.  Which they
are follows from the kind of step (is a penalty due, does the chain dream) and from the integers that its noise draws on the host
(how many sweeps), its *course*.  All else lies in tensors: weights, the batch, where the chains stand, random numbers.  So the
operations of a course are recorded the second time it is taken, and replayed from then on.  Before a replay its noise is drawn
anew, under the same keys as ever, into the tensors that the operations read.  What comes out is what comes out without, bit for
bit where the operations themselves give the same bits twice.

    Tape      which noise a computation draws, and where it lies
    Taped     noise that a tape listens to
    Replayed  a computation by its tapes and recordings
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .graph import State
from .noise import Noise

Course = tuple[int, ...]


class Entry(NamedTuple):
    """One event on a tape: a noise is made, draws a tensor, or decides an integer (which ends this piece of the tape)."""

    event: str  # "made", "drawn", or "integer" or "choice"
    by: int  # the number of the noise it is done by; the root has 0, others are counted as they are made
    how: tuple
    into: Tensor | None = None


class Tape:
    """The draws of a computation: the integers drawn so far -> what is drawn until the next."""

    def __init__(self):
        self.pieces: dict[Course, list[Entry]] = {}
        self._begin(None)

    def write(self, noise: Noise) -> "Taped":
        """The noise, for a computation whose draws are to be written down."""
        self._begin(None)
        return Taped(noise, self)

    def read(self, noise: Noise, course: Course) -> "Taped":
        """A noise that draws nothing: what it gives are the tape's tensors, as they lie there, and this course's integers."""
        self._begin(course)
        return Taped(noise, self)

    def fill(self, noise: Noise) -> Course | None:
        """Draws anew all that the computation will draw, for another root; its course, None where that was never written."""
        noises, course = [noise], ()
        while course in self.pieces:
            for event, by, how, into in self.pieces[course]:
                if event == "made":
                    noises.append(noises[by].under(*how))
                elif event == "drawn":
                    into.copy_(noises[by].draw(*how))
                else:
                    course = (*course, getattr(noises[by], event)(*how))
                    break
            else:
                return course
        return None

    def made(self, by: int, how: tuple) -> int:
        """The number of a noise that is made."""
        self._next(Entry("made", by, how))
        self.noises += 1
        return self.noises - 1

    def drawn(self, by: int, how: tuple, draw: Callable[[], Tensor]) -> Tensor:
        """The tensor that is read or, where it is written, drawn."""
        entry, known = self._next(Entry("drawn", by, how), draw)
        if known and self.course is None:
            entry.into.copy_(draw())
        return entry.into

    def decided(self, event: str, by: int, how: tuple, draw: Callable[[], int]) -> int:
        """The integer that is read or drawn; what comes after it is another piece."""
        self._next(Entry(event, by, how))
        value = draw() if self.course is None else self.course[len(self.passed)]
        self.passed, self.place = (*self.passed, value), 0
        self.pieces.setdefault(self.passed, [])
        return value

    def _begin(self, course: Course | None) -> None:
        self.course = course  # what is to be read, None: to be written
        self.passed, self.place, self.noises = (), 0, 1

    def _next(self, entry: Entry, draw: Callable[[], Tensor] | None = None) -> tuple[Entry, bool]:
        """The entry as it stands on the tape, and whether it stood there before."""
        piece = self.pieces.setdefault(self.passed, [])
        known = self.place < len(piece)
        if not known and self.course is None:
            piece.append(entry._replace(into=draw().clone() if draw else None))  # not a view of all ranks' draws
        elif not known or piece[self.place][:3] != entry[:3]:
            raise RuntimeError(
                f"a computation that is replayed drew other noise than when it was recorded: {entry[:3]}; "
                "train with trainer.replay=false"
            )
        self.place += 1
        return piece[self.place - 1], known


class Taped(Noise):
    """Noise that a tape listens to, and answers for when it is read."""

    def __init__(self, noise: Noise, tape: Tape, number: int = 0):
        super().__init__(
            *noise.key, device=noise.device, rank=noise.rank, ranks=noise.ranks, rows=noise.rows, batch=noise.batch
        )
        self.tape, self.number = tape, number

    def under(self, key: Sequence[int | str], rows: slice, batch: int) -> "Taped":
        number = self.tape.made(self.number, (key, rows, batch))
        return Taped(super().under(key, rows, batch), self.tape, number)

    def draw(self, sampler: Callable, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        how = (sampler, tuple(shape), dtype)
        return self.tape.drawn(self.number, how, lambda: super(Taped, self).draw(*how))

    def integer(self, low: int, high: int) -> int:
        return self.tape.decided("integer", self.number, (low, high), lambda: super(Taped, self).integer(low, high))

    def choice(self, n: int) -> int:
        # What is decided, not the bits that decide it: a course for each range of sweeps, not for each of 2^24 numbers.
        return self.tape.decided("choice", self.number, (n,), lambda: super(Taped, self).choice(n))


class Replayed:
    """A computation that is recorded once for every course that it takes.

    Arguments:
        compute: ({name: state}, noise, *rest) -> tensors, in any nesting.  It may change buffers, and nothing else; it may not
            look at a tensor's values.
        reseed: keys the global generators, from which dropout draws, before the computation of this noise.
    """

    def __init__(self, compute: Callable, reseed: Callable[[Noise], None]):
        self.compute, self.reseed = compute, reseed
        self.tapes: dict[Hashable, tuple[Tape, dict[str, State]]] = {}
        self.recorded: dict[Hashable, Callable[[], Any]] = {}
        self.pool = None

    def __call__(self, kind: tuple, inputs: Mapping[str, State], noise: Noise, *rest) -> Any:
        """What `compute` gives; its tensors are overwritten by the next call.

        Arguments:
            kind: on what, besides the shapes of the inputs, it depends which operations the computation takes.
            inputs: what it reads that is another tensor in every call.
            rest: further arguments of `compute` that have a say only by way of `kind`.
        """
        key = (kind, _shapes(inputs))
        if key not in self.tapes:
            self.tapes[key] = Tape(), {name: {v: x.clone() for v, x in state.items()} for name, state in inputs.items()}
        tape, held = self.tapes[key]
        for name, state in inputs.items():
            for v, x in state.items():
                held[name][v].copy_(x)
        self.reseed(noise)
        if (course := tape.fill(noise)) is None:
            return self.compute(held, tape.write(noise), *rest)
        if (key, course) not in self.recorded:
            self.recorded[key, course] = self._record(
                lambda: self.compute(held, tape.read(noise, course), *rest), noise.device
            )
            self.reseed(noise)
        return self.recorded[key, course]()

    def _record(self, compute: Callable[[], Any], device: torch.device) -> Callable[[], Any]:
        """What takes the computation's operations again; on a CPU, which has no recordings, the computation itself."""
        if device.type != "cuda":
            return compute
        self.pool = self.pool or torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        torch.clear_autocast_cache()  # weights that were cast before would be read as they were then
        # "thread_local": what other threads ask of the device meanwhile, NCCL's watchdog say, is no part of it and no error.
        with torch.cuda.graph(graph, pool=self.pool, capture_error_mode="thread_local"):
            found = compute()
        torch.clear_autocast_cache()

        def replay():
            graph.replay()
            return found

        return replay


def _shapes(inputs: Mapping[str, State]) -> tuple:
    return tuple((name, v, tuple(x.shape), x.dtype) for name, state in inputs.items() for v, x in state.items())
