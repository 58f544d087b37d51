"""What people's data look like, read into plain values: chat messages of every make, tables, and files."""

from evoemb.data.messages import ChatMessage, as_message
from evoemb.data.streams import FileStream, read_streams
from evoemb.data.turns import as_turns

__all__ = ["ChatMessage", "FileStream", "as_message", "as_turns", "read_streams"]
