"""What the commands say of the files of streams they read, and which stream of a file is meant."""

from __future__ import annotations

from collections.abc import Sequence

from evoemb._errors import InputError

FORMAT_HELP = """\
STREAM is a file, gzip or not, or - for standard input. Its format is found from its content, not from its name:
  messages  chat messages, {"role": "user"|"assistant", "content": "..."}: one a line, or in one JSON array;
            a user message and the assistant message right behind it are one turn
  turns     turns, each a JSON string or {"text": "..."}: one a line, or in one JSON array
  evotrain  {"meta": {"turns": [...]}} as in EvoTrain: the last of meta.turns is the query and is no turn;
            with "messages" alone, all of them make the stream
  stream    {"turns": [{"text": "..."}, ...]}, evoemb's own format
  text      plain text, one turn a line; blank lines are skipped
  sharegpt, chatgpt, claude, discord, telegram, slack, whatsapp
            exports of these programs; of Slack, Telegram, ChatGPT, Claude and WhatsApp the unpacked folder, too
  csv       CSV with a header that names a column of texts and one of speakers
  markdown  notes, which begin with a heading: one turn a paragraph
--format forces one of them. Turns and streams are counted from 0."""


def chosen_stream(names: Sequence[str], path: str, choice: int | str | None) -> int:
    """Return which stream of a file is meant, from 0.

    Args:
        names: The name of each stream; empty where it has none.
        path: What errors call the file.
        choice: The value of ``--stream``: a number from 0, or a name. None takes the only one.

    Raises:
        InputError: There is none of that number or name, or several.
    """
    if choice is None and len(names) > 1:
        raise InputError(
            f"{path} holds {len(names)} streams, but one is expected. Choose one with --stream 0, 1, ... or a name."
        )
    if isinstance(choice, str):
        named = [index for index, name in enumerate(names) if name == choice]
        if len(named) != 1:
            known = ", ".join(dict.fromkeys(name for name in names if name)) or "none"
            raise InputError(
                f"--stream {choice} was given, but {path} holds {len(named)} streams of that name. Its names: "
                f"{known:.300}. Choose by number, 0 to {len(names) - 1}."
            )
        return named[0]
    index = choice or 0
    if not 0 <= index < len(names):
        raise InputError(f"--stream {index} was given, but {path} holds the streams 0 to {len(names) - 1}.")
    return index
