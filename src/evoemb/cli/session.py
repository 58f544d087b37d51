"""What the commands share: model options, loading the model quietly, and files that are replaced as a whole."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evoemb._errors import EvoembError, InputError, StateError
from evoemb.cli.reading_log import ReadingLog
from evoemb.data.streams import FORMATS

if TYPE_CHECKING:
    from evoemb.model import EvoEmbedding
    from evoemb.retrieval import TurnScorer
    from evoemb.state import MemoryState

LIBRARIES = ("evoemb", "sentence_transformers", "transformers", "huggingface_hub")
"""Loggers that ``--quiet`` keeps from telling anything but errors."""


def positive_int(text: str) -> int:
    """An argparse type: an integer of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} was given, but at least 1 is expected")
    return value


def add_stream_argument(parser: argparse.ArgumentParser) -> None:
    """Add STREAM and ``--format``."""
    parser.add_argument("stream", metavar="STREAM", help="file to read, or - for standard input; formats: see below")
    parser.add_argument(
        "--format", choices=FORMATS, default="auto", help="format of STREAM (default: found from the content)"
    )


def add_stream_choice(parser: argparse.ArgumentParser, default: str) -> None:
    """Add ``--stream``, a number or a name; ``default`` says what happens without it."""
    parser.add_argument(
        "--stream",
        dest="stream_index",
        type=lambda text: int(text) if text.lstrip("-").isdecimal() else text,
        metavar="N",
        help=f"which stream of the file, by number from 0 or by name (default: {default})",
    )


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of every command that loads a model."""
    parser.add_argument(
        "--model",
        help="folder or Hugging Face Hub id of an evoemb or sentence-transformers model "
        "(default: evoemb-minilm, the trained model that ships with evoemb)",
    )
    parser.add_argument("--device", help="where to compute: cpu, cuda, cuda:1, mps (default: the best there is)")
    parser.add_argument("--quiet", action="store_true", help="no notices and no progress on standard error")


def add_reading_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of every command that reads a stream with a model."""
    parser.add_argument(
        "--memory",
        choices=("causal", "final"),
        default="causal",
        help="what a turn's embedding may know: causal = the turns before it (default), final = the whole stream",
    )
    parser.add_argument("--batch-size", type=positive_int, default=32, help="turns embedded at a time (default: 32)")
    parser.add_argument(
        "--state",
        metavar="FILE",
        help="memory to go on from: read if FILE exists, and FILE is replaced when the stream has been read. Only the "
        "turns of this call are embedded and ranked; earlier ones act through the memory. Turns that were read into "
        "FILE before are refused.",
    )
    parser.add_argument("--again", action="store_true", help="read turns even if FILE of --state has read them before")


def load_model(args: argparse.Namespace) -> EvoEmbedding:
    """The model the options name.

    Raises:
        InputError: The device is unknown or not there, or the name leads to something that is no model.
        OSError: The model is neither a folder nor reachable on the Hub.
    """
    from evoemb.default_model.base import DEFAULT_MODEL

    _check_device(args.device)
    quieten(args)
    from safetensors import SafetensorError

    from evoemb.model import EvoEmbedding

    try:
        return EvoEmbedding(args.model, device=args.device)
    except EvoembError:
        raise
    except (ValueError, ImportError, SafetensorError) as error:  # what the libraries below raise for a bad model
        raise InputError(
            f"{args.model or DEFAULT_MODEL} cannot be loaded: {error} Name a sentence-transformers or evoemb model, by "
            "folder or Hub id."
        ) from error


def turn_scorer(args: argparse.Namespace, model: EvoEmbedding) -> TurnScorer:
    """Return what scores turns as ``--scoring`` says, or as the model does by itself."""
    from evoemb.retrieval import TurnScorer

    config = model.retrieval_config
    return TurnScorer(model, args.scoring or config.scoring, config, args.batch_size, show_progress(args))


def quieten(args: argparse.Namespace) -> None:
    """Hide the libraries' bars where no progress is wanted, and with ``--quiet`` all but their errors."""
    if not show_progress(args):
        _hide_loading_bars()
    if args.quiet:
        for name in LIBRARIES:
            logging.getLogger(name).setLevel(logging.ERROR)


class OpenedState:
    """The state that a command reads on from, and what was read into its file before.

    Args:
        args: Of a command with the options of :func:`add_reading_options`.
        turns: What the command is about to read.

    Raises:
        InputError: The turns were read into this state before, and ``--again`` was not given.
        StateError: The file is no state, or holds several streams.
    """

    def __init__(self, args: argparse.Namespace, turns: Sequence[str]) -> None:
        from evoemb.state.file import read_state

        self._path: str | None = args.state
        self._turns = turns
        self._saved = read_state(args.state) if args.state is not None and Path(args.state).exists() else None
        self._log = ReadingLog.of_notes(self._saved.notes) if self._saved else ReadingLog()
        if self._saved and len(self._saved.memories) != 1:
            raise StateError(
                f"{self._path} holds the memory of {len(self._saved.memories)} streams, but the command line reads "
                "one. Save a single one from Python: state[0].save(...)."
            )
        if not args.again:
            self._log.check(turns, args.stream, str(self._path))

    def of(self, model: EvoEmbedding) -> MemoryState:
        """Return the state: that of the file if there is one, else an empty one."""
        from evoemb.state import MemoryState

        return MemoryState(self._saved.spec, self._saved.memories) if self._saved else model.new_state()

    def turns_with_answer(self, stream: Sequence[Any]) -> list[str]:
        """Return the turn texts of the stream to read; an answer that comes first stands in the turn it belongs to."""
        from evoemb.data.turns import as_turns, read_turns
        from evoemb.encoding import taken_up

        if self._saved is None:
            return as_turns(stream)
        return [turn.text for turn in taken_up(read_turns(stream), self._saved.memories[0])[0]]

    def save(self, state: MemoryState) -> None:
        """Write the state in place of its file, all or nothing, with what was read; nothing without ``--state``."""
        from evoemb.state.file import write_state

        if self._path is not None:
            write_state(self._path, state.spec, state.snapshot(), self._log.with_turns(self._turns).notes)


def check_can_write(path: str, option: str) -> None:
    """Refuse an output file that cannot be made, before any work is done for it."""
    folder = Path(os.path.realpath(path)).parent
    if Path(path).is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise InputError(
            f"{option} {path}: no file can be written there. Name a file in an existing folder that you may write to."
        )


def show_progress(args: argparse.Namespace) -> bool:
    """Whether progress bars are wanted: not in a pipe's log, and not with ``--quiet``."""
    return not args.quiet and sys.stderr.isatty()


def _check_device(device: str | None) -> None:
    """Refuse a device torch does not know or does not see; torch's own errors come late and in many classes."""
    if device is None:
        return
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"--device {device} cannot be used: {reason}. Pass cpu, or leave --device out.") from error


def _hide_loading_bars() -> None:
    """Keep transformers' and the Hub client's bars out of standard error."""
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]  # documented, not in __all__
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bars()
    disable_progress_bar()  # type: ignore[no-untyped-call]
