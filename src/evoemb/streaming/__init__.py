"""The recurrence: streams of turns threaded through the stack, memory as a value in and out."""
