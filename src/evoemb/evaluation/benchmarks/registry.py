"""Benchmarks by name: where they are published, and who reads them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from evoemb._errors import InputError
from evoemb.evaluation.benchmarks import chats, dialogues, lmeb, passages
from evoemb.evaluation.schema import EvalStream


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A published benchmark.

    Args:
        about: What it is, in a line.
        read: Takes a file or folder as published.
        repository: Hub id of its data set; None where it is not on the Hub and a path must be given.
        files: Files of it, as patterns of the Hub.
        inside: File or folder within the download that ``read`` takes; empty for the folder itself.
    """

    about: str
    read: Callable[[Path], list[EvalStream]]
    repository: str | None = None
    files: tuple[str, ...] = ()
    inside: str = ""


def _personamem(size: str) -> Callable[[Path], list[EvalStream]]:
    return lambda folder: chats.read_personamem(
        folder / f"questions_{size}.csv", folder / f"shared_contexts_{size}.jsonl"
    )


def _lmeb(folder: str, about: str) -> Benchmark:
    return Benchmark(about, lmeb.read_lmeb, "KaLM-Embedding/LMEB", (f"{folder}/*",), folder)


def _longmemeval(file: str, about: str) -> Benchmark:
    return Benchmark(about, chats.read_longmemeval, "xiaowu0162/longmemeval-cleaned", (file,), file)


BENCHMARKS: dict[str, Benchmark] = {
    "locomo": Benchmark("LoCoMo, pairs (give locomo10.json)", dialogues.read_locomo),
    "locomo-utterances": Benchmark(
        "LoCoMo, one message a turn (give locomo10.json)", lambda path: dialogues.read_locomo(path, "utterances")
    ),
    "realtalk": Benchmark("REALTALK, pairs (give its folder of chats)", dialogues.read_realtalk),
    "longmemeval-s": _longmemeval("longmemeval_s_cleaned.json", "LongMemEval S"),
    "longmemeval-m": _longmemeval("longmemeval_m_cleaned.json", "LongMemEval M"),
    "longmemeval-oracle": _longmemeval("longmemeval_oracle.json", "LongMemEval, evidence sessions only"),
    **{
        f"personamem-{size.lower()}": Benchmark(
            f"PersonaMem, {size} tokens (answers only)",
            _personamem(size),
            "bowen-upenn/PersonaMem",
            (f"questions_{size}.csv", f"shared_contexts_{size}.jsonl"),
        )
        for size in ("32k", "128k", "1M")
    },
    "qasper": _lmeb("Semantic/QASPER", "QASPER as LMEB gives it"),
    "peerqa": _lmeb("Semantic/PeerQA", "PeerQA as LMEB gives it"),
    "covidqa": _lmeb("Semantic/Covid-QA", "COVID-QA as LMEB gives it"),
    "mldr": _lmeb("Semantic/MLDR", "MLDR as LMEB gives it"),
    "esg": _lmeb("Semantic/ESG-Reports", "ESG reports as LMEB gives them"),
    "lmeb-locomo": _lmeb("Dialogue/LoCoMo", "LoCoMo as LMEB gives it"),
    "lmeb-longmemeval": _lmeb("Dialogue/LongMemEval", "LongMemEval as LMEB gives it"),
    "lmeb-realtalk": _lmeb("Dialogue/REALTALK", "REALTALK as LMEB gives it"),
    "lmeb": Benchmark("any task in LMEB's layout (give its folder)", lmeb.read_lmeb),
    "evotrain": Benchmark("EvoTrain's schema (give a JSON Lines file)", passages.read_evotrain),
    "nq320k": Benchmark("NQ320k (give the folder of GenRet's files)", passages.read_nq320k),
    "msmarco": Benchmark("MS MARCO passages (give the folder)", passages.read_msmarco),
}


def load_benchmark(name: str, path: Path | None = None, revision: str | None = None) -> list[EvalStream]:
    """Read a benchmark, from ``path`` or from the Hub.

    Args:
        name: A key of `BENCHMARKS`.
        path: File or folder as published; None downloads it.
        revision: Branch, tag or commit of the data set on the Hub; None takes its default branch.

    Raises:
        InputError: There is no such benchmark, or it is not on the Hub and no path was given, or its
            repository lacks the files; or a file is malformed, an id stands twice, or a question is empty.
        OSError: The download failed, or the path does not exist.
    """
    benchmark = BENCHMARKS.get(name)
    if benchmark is None:
        raise InputError(f"There is no benchmark {name!r}. Give a file, or one of {', '.join(BENCHMARKS)}.")
    if path is not None:
        if not path.exists():
            raise FileNotFoundError(2, "No such file or folder", str(path))
        return _checked(benchmark.read(path), path)
    if benchmark.repository is None:
        raise InputError(f"{name} is not on the Hub: {benchmark.about}. Fetch it and pass its path with --data.")
    folder = download(benchmark, revision)
    return _checked(benchmark.read(folder), folder)


def _checked(streams: list[EvalStream], path: Path) -> list[EvalStream]:
    """Streams whose names and questions are what figures can be kept by, whatever the files said."""
    seen: set[str] = set()
    for stream in streams:
        where = f"{path}, {stream.stream_id}"
        if stream.stream_id in seen:
            raise InputError(f"{where}: this id stands twice. Every conversation or question needs its own.")
        seen.add(stream.stream_id)
        asked: set[str] = set()
        for query in stream.queries:
            if query.qid in asked:
                raise InputError(f"{where}, query {query.qid!r}: this id stands twice.")
            if not query.query.strip():
                raise InputError(f"{where}, query {query.qid!r}: it is empty. Leave it out.")
            asked.add(query.qid)
    if not streams:
        raise InputError(f"{path}: there is nothing in it to read.")
    return streams


def download(benchmark: Benchmark, revision: str | None = None) -> Path:
    """Fetch a benchmark's files into the Hub's cache and give the file or folder that its reader takes.

    Raises:
        InputError: The repository, or offline the cache, has none of the files.
        OSError: The repository or revision cannot be had; the Hub's own errors.
    """
    from huggingface_hub import snapshot_download

    folder = Path(
        snapshot_download(
            str(benchmark.repository),
            repo_type="dataset",
            revision=revision,
            allow_patterns=list(benchmark.files),
        )
    )
    missing = [pattern for pattern in benchmark.files if not any(folder.glob(pattern))]
    if missing:
        raise InputError(
            f"{benchmark.repository} has no {missing[0]} at revision {revision or 'main'} ({folder}). Offline, only "
            "what was fetched before is there. Pass another --revision, or the files with --data."
        )
    return folder / benchmark.inside
