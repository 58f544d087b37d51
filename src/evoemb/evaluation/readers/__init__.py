"""Published benchmarks as streams: each reader takes files as their authors publish them."""
