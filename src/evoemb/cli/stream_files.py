"""The streams of a file that a command works on: all, the only one, or one by number or name."""

from __future__ import annotations

from collections.abc import Sequence

from evoemb._errors import InputError
from evoemb.data.streams import FileStream, read_streams

FORMAT_HELP = """\
STREAM is a file, gzip or not, or - for standard input. Its format is found from its content, not from its name:
  messages  chat messages, {"role": "user"|"assistant", "content": "..."}: one a line, or in one JSON array;
            a user message and the assistant message right behind it are one turn
  turns     turns, each a JSON string or {"text": "..."}: one a line, or in one JSON array
  evotrain  {"meta": {"turns": [...]}} as in EvoTrain: the last of meta.turns is the query and is no turn;
            with "messages" alone, all of them make the stream
  stream    {"turns": [{"text": "..."}, ...]}, evoemb's own format
  text      plain text, one turn a line; blank lines are skipped
Also exports of ShareGPT, ChatGPT, Claude, Discord, Telegram, Slack and WhatsApp; CSV with a header that names a column
of texts and one of speakers; and notes in Markdown, which begin with a heading: one turn a paragraph.
--format forces one of them. Turns and streams are counted from 0."""


def read_one_stream(path: str, stream_format: str = "auto", choice: int | str | None = None) -> FileStream:
    """Return the stream of a file that holds one, or the chosen one; raises as `read_streams` and `chosen_stream`."""
    return chosen_stream(read_streams(path, stream_format), path, choice)


def chosen_stream(streams: Sequence[FileStream], path: str, choice: int | str | None) -> FileStream:
    """Return the stream with a number, from 0, or a name; without either, the only one.

    Raises:
        InputError: There is none of that number or name, or several.
    """
    if choice is None and len(streams) > 1:
        raise InputError(
            f"{path} holds {len(streams)} streams, but one is expected. Choose one with --stream 0, 1, ... or a name."
        )
    if isinstance(choice, str):
        named = [stream for stream in streams if stream.name == choice]
        if len(named) != 1:
            known = ", ".join(dict.fromkeys(stream.name for stream in streams if stream.name)) or "none"
            raise InputError(
                f"--stream {choice} was given, but {path} holds {len(named)} streams of that name. Its names: "
                f"{known:.300}. Choose by number, 0 to {len(streams) - 1}."
            )
        return named[0]
    index = choice or 0
    if not 0 <= index < len(streams):
        raise InputError(f"--stream {index} was given, but {path} holds the streams 0 to {len(streams) - 1}.")
    return streams[index]
