"""``evoemb encode``: write the embeddings of a stream's turns to a file."""

from __future__ import annotations

import argparse
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evoemb._errors import InputError
from evoemb._files import write_whole
from evoemb.cli import output, session
from evoemb.cli.stream_files import FORMAT_HELP
from evoemb.data import read_streams

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_SUFFIXES = (".safetensors", ".npy")

_FILE_HELP = """
FILE.npy holds the embeddings of one stream, (turns, dimension) float32, in the order of the stream.
FILE.safetensors holds them as "embeddings" or, if STREAM holds several streams, as "embeddings.0",
"embeddings.1", ...; its metadata say model, fingerprint (of its weights), memory, num_streams and num_turns
(of all streams).
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add this command to the command line."""
    parser = commands.add_parser(
        "encode",
        help="write the embeddings of a stream's turns to a file",
        description="Read a stream turn by turn with a memory of the turns before, and write each turn's embedding.",
        epilog=FORMAT_HELP + "\n" + _FILE_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    session.add_stream_argument(parser)
    parser.add_argument("-o", "--output", required=True, metavar="FILE", help="a name ending in .safetensors or .npy")
    session.add_reading_options(parser)
    session.add_model_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Read the streams, write the embeddings, then the state: a failure in between loses no turn."""
    suffix = Path(args.output).suffix
    if suffix not in _SUFFIXES:
        raise InputError(
            f"-o {args.output}: this name ends in neither .safetensors nor .npy. Choose one of these formats."
        )
    session.check_can_write(args.output, "-o")
    streams = read_streams(args.stream, args.format)
    if len(streams) > 1:
        _check_several_fit(len(streams), suffix, args)
    turns = [stream.turns for stream in streams]
    opened = session.OpenedState(args, turns[0]) if args.state is not None else None
    model = session.load_model(args)
    state = None if opened is None else opened.of(model)
    found = model.encode_document(
        streams[0].given if state is not None else turns,
        stateful=True,
        state=state,
        memory=args.memory,
        batch_size=args.batch_size,
        show_progress_bar=session.show_progress(args),
    )
    embeddings = [found] if state is not None else list(found)
    spec = model.state_spec
    about = {"model": spec.model_id, "fingerprint": spec.fingerprint, "memory": args.memory}
    write_whole(args.output, _content(suffix, embeddings, about))
    if opened is not None and state is not None:
        opened.save(state)
    if not args.quiet:
        num_turns, dimension = sum(map(len, turns)), embeddings[0].shape[1]
        output.write_notice(f"Wrote the embeddings of {num_turns} turns (dimension {dimension}) to {args.output}.")


def _check_several_fit(num_streams: int, suffix: str, args: argparse.Namespace) -> None:
    """Refuse what only works with one stream."""
    if suffix == ".npy":
        raise InputError(
            f"{args.stream} holds {num_streams} streams, but a .npy file takes one. Give -o a name in .safetensors."
        )
    if args.state is not None:
        raise InputError(
            f"{args.stream} holds {num_streams} streams, but --state is the memory of one. Give a file with one stream."
        )


def _content(suffix: str, embeddings: Sequence[NDArray[np.float32]], metadata: Mapping[str, str]) -> bytes:
    """The bytes of a file with the embeddings of each stream, in the format that the suffix names."""
    import numpy as np
    from safetensors.numpy import save

    if suffix == ".npy":
        held = io.BytesIO()
        np.save(held, embeddings[0])
        return held.getvalue()
    names = ["embeddings"] if len(embeddings) == 1 else [f"embeddings.{index}" for index in range(len(embeddings))]
    counts: dict[str, Any] = {"num_streams": len(embeddings), "num_turns": sum(map(len, embeddings))}
    tensors = {name: np.ascontiguousarray(rows) for name, rows in zip(names, embeddings, strict=True)}
    return save(tensors, metadata={**metadata, **{name: str(count) for name, count in counts.items()}})
