"""Chats in token ids, what a model makes of them, and answers from its memory."""
