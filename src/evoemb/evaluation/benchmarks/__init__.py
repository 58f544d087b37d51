"""Published benchmarks as streams: each module reads files as their authors publish them."""
