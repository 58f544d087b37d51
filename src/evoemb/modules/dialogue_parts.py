"""What a stateful transformer has for dialogues beside its embeddings: ways, language head, native embedding model."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from safetensors.torch import save_file
from transformers import PreTrainedModel

from evoemb._errors import CheckpointError, EvoembError
from evoemb.modules.backbones.lookup import is_causal
from evoemb.modules.dialogue_format import DialogueConfig
from evoemb.modules.language_head import HEAD_FILE, HEAD_NAME, LanguageHead, head_reader
from evoemb.modules.native import NativeEmbedder, NativeReference
from evoemb.modules.tensor_files import Source

logger = logging.getLogger(__name__)

DIALOGUE_FILE = "dialogue_config.json"


class DialogueParts:
    """Holds no weights until they are needed: embeddings with memory need none of these.

    Args:
        backbone: The decoder without head.
        config: How dialogues are read.
        origin: Where the model was loaded from; None for one that was built from a base model.
        native: Where the plain embedding model lies, if there is one.
    """

    def __init__(
        self,
        backbone: PreTrainedModel,
        config: DialogueConfig | None = None,
        origin: Source | None = None,
        native: NativeReference | None = None,
    ) -> None:
        self.config = config or DialogueConfig()
        self.origin = origin
        self.native = native
        self.head = LanguageHead(backbone, head_reader(backbone, origin))
        self._backbone = backbone
        self._native_embedder: NativeEmbedder | None = None

    def native_embedder(self) -> NativeEmbedder:
        """Load the plain embedding model, once, in the dtype of the backbone and on its device.

        Raises:
            CheckpointError: The model has none.
        """
        if self.native is None:
            raise CheckpointError(
                "native=True asks for the plain embedding model of a released checkpoint, and this model has none. Use "
                "encode(texts) for embeddings without memory."
            )
        like = next(self._backbone.parameters())
        if self._native_embedder is None:
            self._native_embedder = NativeEmbedder(self.native.files(), dtype=like.dtype, device=like.device)
        return self._native_embedder.to(device=like.device, dtype=like.dtype)

    def save(self, folder: Path) -> None:
        """Write the configuration, an untied head, and where the native model lies (or its weights)."""
        (folder / DIALOGUE_FILE).write_text(json.dumps(self.config.to_dict(), indent=2), encoding="utf-8")
        if is_causal(self._backbone) and not self.head.is_tied and not self._is_own_folder(folder):
            try:
                save_file({HEAD_NAME: self.head.stored()}, folder / HEAD_FILE, metadata={"format": "pt"})
            except (EvoembError, OSError) as error:
                # A base model without a head is no reason to lose the embeddings: it never could generate.
                logger.info("Saved without a language head, so the saved model cannot generate text: %s", error)
        if self.native is not None:
            self.native.save(folder)

    def _is_own_folder(self, folder: Path) -> bool:
        """Whether a model is saved where it was loaded from; its files are in use and stay as they are."""
        origin = self.origin
        return origin is not None and Path(origin.name, origin.subfolder).resolve() == folder.resolve()

    @classmethod
    def load(cls, backbone: PreTrainedModel, origin: Source) -> DialogueParts:
        """Read what :meth:`save` wrote."""
        values = origin.json(DIALOGUE_FILE)
        config = None if values is None else DialogueConfig.from_dict(values)
        return cls(backbone, config, origin, NativeReference.load(origin))
