"""Evaluation on streams: figures, anchors, controls, evaluators, reports."""
