"""Search across all the streams of a file: each has a memory of its own, and their turns are ranked together."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from evoemb._errors import InputError
from evoemb.cli import output, session
from evoemb.data import FileStream

if TYPE_CHECKING:
    from torch import Tensor

    from evoemb.model import EvoEmbedding


def search_all(args: argparse.Namespace, streams: Sequence[FileStream], queries: Sequence[str]) -> None:
    """Rank the turns of all streams for each query by their vectors, and print them with their streams.

    Raises:
        InputError: A state was named, which holds one stream; or a scoring whose scores compare turns of one stream.
    """
    if args.state is not None:
        raise InputError(
            f"--state {args.state} holds the memory of one stream, but {args.stream} holds {len(streams)}. Choose "
            "one with --stream 0, 1, ... or a name."
        )
    if args.scoring not in (None, "vector"):
        raise InputError(
            f"--scoring {args.scoring} compares turns of one stream, but {args.stream} holds {len(streams)}. Choose "
            "one with --stream 0, 1, ... or a name, or leave --scoring out."
        )
    model = session.load_model(args)
    state = model.new_state(len(streams))
    embeddings = model.encode_document(
        [stream.given for stream in streams],
        stateful=True,
        state=state,
        memory=args.memory,
        batch_size=args.batch_size,
        show_progress_bar=session.show_progress(args),
    )
    asked = model.encode_query([list(queries)] * len(streams), state=state, show_progress_bar=False)
    scores = [model.similarity(*pair) for pair in zip(asked, embeddings, strict=True)]
    static = _scores_without_memory(model, streams, queries, args) if args.static else None
    if not args.quiet:
        num_turns = sum(len(stream.turns) for stream in streams)
        output.write_notice(f"Read {num_turns} turns of {len(streams)} streams; --stream searches one of them.")
    for row, query in enumerate(queries):
        hits = _best(scores, row, streams, args.top_k)
        static_hits = None if static is None else _best(static, row, streams, args.top_k)
        if args.json:
            shown = {"query": query, "results": hits}
            output.write_json(shown if static_hits is None else {**shown, "static_results": static_hits})
        else:
            output.write_hits(query, _labelled(hits), None if static_hits is None else _labelled(static_hits))


def _scores_without_memory(
    model: EvoEmbedding, streams: Sequence[FileStream], queries: Sequence[str], args: argparse.Namespace
) -> list[Tensor]:
    asked = model.encode_query(list(queries), show_progress_bar=False)
    return [
        model.similarity(
            asked, model.encode_document(stream.turns, batch_size=args.batch_size, show_progress_bar=False)
        )
        for stream in streams
    ]


def _best(scores: Sequence[Tensor], row: int, streams: Sequence[FileStream], top_k: int) -> list[Any]:
    """Return the hits that score best in all streams; ``corpus_id`` is the turn in its stream."""
    from evoemb.ranking import top_hits  # here, as `evoemb --help` need not wait for numpy

    found: list[Any] = [
        {"stream": index, **({"name": stream.name} if stream.name else {}), **hit}
        for index, stream in enumerate(streams)
        for hit in top_hits(scores[index][row].numpy(), stream.turns, top_k)
    ]
    return sorted(found, key=lambda hit: -hit["score"])[:top_k]


def _labelled(hits: Sequence[Any]) -> list[Any]:
    """Return hits whose texts begin with their stream, for a table."""
    return [{**hit, "text": f"[{hit.get('name') or 'stream {stream}'.format(**hit)}] {hit['text']}"} for hit in hits]
