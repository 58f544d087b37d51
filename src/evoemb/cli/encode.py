"""``evoemb encode``: write the embeddings of a stream's turns to a file."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evoemb._errors import InputError
from evoemb.cli import output, session
from evoemb.cli.stream_files import FORMAT_HELP, read_streams

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
    model = session.load_model(args)
    state = session.open_state(model, args.state) if args.state is not None else None
    found = model.encode_document(
        turns[0] if state is not None else turns,
        stateful=True,
        state=state,
        memory=args.memory,
        batch_size=args.batch_size,
        show_progress_bar=session.show_progress(args),
    )
    embeddings = [found] if state is not None else list(found)
    spec = model.state_spec
    about = {"model": spec.model_id, "fingerprint": spec.fingerprint, "memory": args.memory}
    session.replace_file(args.output, lambda path: _write(path, embeddings, about))
    if state is not None:
        session.save_state(state, args.state)
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


def _write(path: Path, embeddings: Sequence[NDArray[np.float32]], metadata: Mapping[str, str]) -> None:
    """Write the embeddings of each stream in the format that the path's suffix names."""
    import numpy as np
    from safetensors.numpy import save_file

    if path.suffix == ".npy":
        np.save(path, embeddings[0])
        return
    names = ["embeddings"] if len(embeddings) == 1 else [f"embeddings.{index}" for index in range(len(embeddings))]
    counts: dict[str, Any] = {"num_streams": len(embeddings), "num_turns": sum(map(len, embeddings))}
    tensors = {name: np.ascontiguousarray(rows) for name, rows in zip(names, embeddings, strict=True)}
    save_file(tensors, path, metadata={**metadata, **{name: str(count) for name, count in counts.items()}})
