"""Generated streams with questions: state that changes, and turns that only what was said before tells apart."""
