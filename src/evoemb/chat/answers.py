"""Answers from the memory: the base model, without adapters, reads the last message with the memory in it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from evoemb._errors import InputError
from evoemb.state.memory import StreamMemory
from evoemb.streaming.rows import Stack, TokenIds


def memory_rows(stack: Stack, memory: StreamMemory) -> Tensor:
    """Return what a reader sees of a memory now, as input rows ``(<=C, H)``.

    Raises:
        InputError: The model reads its memory inside the layers, where the bare base model does not look.
    """
    if not stack.transformer.reader.has_input_rows:
        raise InputError(
            'The base model sees the memory as input rows, which memory_reader="attention" does not have. Use a model '
            'with memory_reader="prefix".'
        )
    return stack.queue.read(memory.queue(stack.queue.capacity_latents))


def answer_rows(stack: Stack, segment: TokenIds, memory: StreamMemory) -> Tensor:
    """Embed the last segment with the memory inserted behind its header.

    Returns:
        Rows ``(len(segment) + M, H)``.

    Source: upstream model, ``generate``: behind the first three tokens, or behind all of a shorter segment.
    """
    ids = torch.as_tensor(list(segment), device=stack.device)
    embeddings = stack.transformer.model.get_input_embeddings()(ids)
    held = memory_rows(stack, memory).to(embeddings.dtype)
    offset = min(stack.transformer.dialogue.config.memory_offset, len(segment))
    return torch.cat((embeddings[:offset], held, embeddings[offset:]))


def generate_ids(stack: Stack, rows: Tensor, max_new_tokens: int, **kwargs: Any) -> Any:
    """Let the base model, without adapters, continue input rows ``(L, H)``; greedy unless ``kwargs`` say otherwise.

    Returns:
        New token ids, or what transformers' ``generate`` returns with ``return_dict_in_generate=True``.
    """
    transformer = stack.transformer
    model, is_cache_right = transformer.dialogue.head.causal_model()
    tokenizer: Any = transformer.tokenizer
    ids = transformer.dialogue.config.token_ids
    end = ids.im_end if ids else tokenizer.eos_token_id
    filler = next((i for i in (tokenizer.pad_token_id, ids and ids.end_of_text, end) if i is not None), 0)
    own: dict[str, Any] = {"do_sample": False, "eos_token_id": end, "pad_token_id": filler, "use_cache": is_cache_right}
    output = model.generate(
        inputs_embeds=rows.unsqueeze(0),
        attention_mask=torch.ones(1, rows.shape[0], dtype=torch.long, device=rows.device),
        max_new_tokens=max_new_tokens,
        **{**own, **kwargs},
    )
    return output if kwargs.get("return_dict_in_generate") else output[0].tolist()
