"""Evaluation on streams: evaluators, figures, anchors and controls, with packages for benchmarks, answers and pages."""
