"""Dialogues: messages to turns and queries, retrieval among them, answers from their memory, and the training loss."""
