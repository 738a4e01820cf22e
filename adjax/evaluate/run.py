"""An evaluation from end to end: code all files by all systems, find each system's lag, score, sum up."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from adjax import audio
from adjax.errors import AdjaxError
from adjax.evaluate.opus import UnavailableError
from adjax.evaluate.scores import LAG_LIMIT_S, Scored, Scorer, find_lag
from adjax.evaluate.summary import results
from adjax.evaluate.systems import CodedFile, Item, Made, System, check_names, natural_info, read_audio, read_decoded

MINIMUM_S = 0.1  # shorter files are refused: no metric means anything there

Progress = Callable[[float, float | None], None]  # seconds of audio done and in all
Task = TypeVar("Task")
Result = TypeVar("Result")


def evaluate(
    items: Sequence[Item],
    systems: Sequence[System],
    output: str | os.PathLike[str] | None = None,
    save_audio: bool = False,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Scores of all systems on all natural files: what `results.json` holds (docs/quality.md).

    Works in `jobs` processes (by default one for each core), a file at a time in each. A file that fails is listed in
    `failures` and stops nothing else. With `save_audio`, natural and decoded audio go to `output`. Raises AdjaxError
    where names clash, where nothing can be written, and where a process dies.
    """
    check_names(systems)
    if save_audio and output is None:
        raise AdjaxError("to save audio, name a folder for it: --output DIR")
    jobs = min(len(items), jobs or available_cores())
    with tempfile.TemporaryDirectory(prefix="adjax-evaluate-") as temporary:
        work = Path(temporary) if output is None or not save_audio else Path(output)
        suffix = ".flac" if save_audio else ".wav"
        lengths = [natural_info(item.path) for item in items]
        done, total = 0.0, 2 * sum(lengths)

        def advance(index: int) -> None:
            nonlocal done
            done += lengths[index]
            if progress:
                progress(done, total)

        with _pool(jobs) as pool:
            tasks = [(item, tuple(systems), work, suffix, save_audio) for item in items]
            coded = _all(pool, _code_file, tasks, advance)
            lags = [_median_lag(coded, i) for i in range(len(systems))]
            tasks = [(item, file, tuple(lags)) for item, file in zip(items, coded, strict=True)]
            scored = _all(pool, _score_file, tasks, advance)
    return results(items, systems, coded, lags, scored, save_audio)


def available_cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


# -------------------------------------------------------------------------------------------------- in the workers


def _code_file(task: tuple[Item, tuple[System, ...], Path, str, bool]) -> CodedFile:
    item, systems, work, suffix, save_audio = task
    try:
        natural, rate = read_audio(item.path)
        if len(natural) < MINIMUM_S * rate:
            raise AdjaxError(
                f"{item.path}: too short: {len(natural) / rate:.3f} s, but at least {MINIMUM_S} s is needed"
            )
        if save_audio:
            _write(work / "natural" / f"{item.name}{suffix}", natural, rate)
    except Exception as error:
        return CodedFile(error=_reason(error))
    made = tuple(_make(item, system, natural, rate, work, suffix, save_audio) for system in systems)
    return CodedFile(len(natural) / rate, rate, natural.shape[1], made)


def _make(
    item: Item, system: System, natural: np.ndarray, rate: int, work: Path, suffix: str, save_audio: bool
) -> Made:
    target = work / "decoded" / system.name / f"{item.name}{suffix}"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        coded = system.code(item, target)
        decoded = read_decoded(coded.path, natural, rate)
        if save_audio and coded.path != target:
            _write(target, decoded, rate)
    except UnavailableError as error:
        return Made(error=str(error), unavailable=True)
    except Exception as error:  # one file must not end hours of work; what went wrong is reported
        return Made(error=_reason(error))
    searched = slice(0, int(LAG_LIMIT_S * rate))
    lag = find_lag(natural[searched], decoded[searched], int(system.lag_bound_s * rate))
    return Made(coded, None if lag is None else lag / rate)


def _score_file(task: tuple[Item, CodedFile, tuple[float, ...]]) -> list[Scored | str | None]:
    """For each system the scores, why there are none, or None where nothing was made."""
    item, file, lags = task
    if file.error is not None:
        return [None] * len(lags)
    natural, rate = read_audio(item.path)
    scorer, found = Scorer(natural, rate), []
    for made, lag_s in zip(file.made, lags, strict=True):
        if made.coded is None:
            found.append(None)
            continue
        try:
            decoded, lag = read_decoded(made.coded.path, natural, rate), round(lag_s * rate)
            raw = scorer.scores(decoded)
            found.append(Scored(raw, scorer.scores(decoded, lag) if lag else raw))
        except Exception as error:
            found.append(_reason(error))
    return found


def _write(target: Path, sound: np.ndarray, rate: int) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with audio.AudioWriter(target, rate, sound.shape[1]) as writer:
        writer.write(sound)


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, AdjaxError) else f"unexpected {type(error).__name__}: {error}"


def _median_lag(coded: Sequence[CodedFile], system: int) -> float:
    """Seconds: the median over files, an element of theirs, since a codec's delay is constant and odd files are few."""
    lags = [file.made[system].lag_s for file in coded if file.made]
    known = [lag for lag in lags if lag is not None]
    return float(np.percentile(known, 50, method="inverted_cdf")) if known else 0.0


# ------------------------------------------------------------------------------------------------------- processes


class _Here:
    """Runs at once in this process."""

    def __enter__(self) -> _Here:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def _pool(jobs: int) -> ProcessPoolExecutor | _Here:
    if jobs == 1:
        return _Here()
    return ProcessPoolExecutor(jobs, get_context("spawn"), _start_worker)


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it without a traceback
    os.environ["NPROC"] = "1"  # threads of XLA, which has not started yet: a core for each process


def _all(
    pool: ProcessPoolExecutor | _Here,
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    advance: Callable[[int], None],
) -> list[Result]:
    """Results in the order of the tasks."""
    return [result for _, result in sorted(_finished(pool, function, tasks, advance), key=lambda pair: pair[0])]


def _finished(
    pool: ProcessPoolExecutor | _Here,
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    advance: Callable[[int], None],
) -> Iterator[tuple[int, Result]]:
    if isinstance(pool, _Here):
        for i, task in enumerate(tasks):
            yield i, function(task)
            advance(i)
        return
    futures: dict[Future[Result], int] = {pool.submit(function, task): i for i, task in enumerate(tasks)}
    try:
        for future in as_completed(futures):
            yield futures[future], future.result()
            advance(futures[future])
    except BrokenProcessPool:
        raise AdjaxError("a worker process ended unexpectedly, perhaps for lack of memory; try fewer --jobs") from None
    finally:
        for future in futures:
            future.cancel()
