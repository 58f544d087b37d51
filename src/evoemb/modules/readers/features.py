"""Names of the features by which a forward of the stack says what of a memory its texts see."""

from __future__ import annotations

from collections.abc import Mapping

# Features of a read: texts (N, T) see a finished memory, (N or 1, M, S), newest latent last.
MEMORY = "memory"
MEMORY_MASK = "memory_mask"
# Features of a read behind memories that have been run: a list of one or N, and how many latents each text sees.
PASTS = "memory_pasts"
SEEN = "memory_seen"
# Feature of any read: whether what follows looks at each text's last token alone. A reader may make use of it.
LAST_ONLY = "last_token_only"
# Features of a block: consecutive turns of several streams, each sees the turns before it.
CARRIED = "carried_latents"
CARRIED_MASK = "carried_mask"
ROW_STREAM = "row_stream"
ROW_INDEX = "row_index"
BUCKETS = "row_buckets"
# What a block leaves: new latents (N, K, S).
LATENTS = "latents"


def names_a_memory(features: Mapping[str, object]) -> bool:
    """Tell whether the texts of a forward see a memory, be it an empty one."""
    return any(name in features for name in (MEMORY, PASTS, CARRIED))
