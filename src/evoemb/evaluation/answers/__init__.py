"""Answer quality: a chat model answers from the turns retrieved, another one judges."""
