"""The plain embedding model inside a released checkpoint: read only when it is asked for, knows no memory."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import Qwen3Config, Qwen3Model

from evoemb._errors import CheckpointError
from evoemb.modules.backbones.last_layer import states_at
from evoemb.modules.empty_weights import EmptyWeights, put_tensor
from evoemb.modules.language_head import NATIVE_PREFIX
from evoemb.modules.tensor_files import WEIGHTS_FILE, Source, TensorFiles

NATIVE_FOLDER = "native"
NATIVE_FILE = "native.json"
_LAYER = "model.layers.{}."
# What shapes do not tell; the same in every size of Qwen3-Embedding.
_ROPE_THETA = 1_000_000.0
_NORM_EPS = 1e-6


@dataclass(frozen=True, slots=True)
class NativeReference:
    """Where the embedding model lies.

    Args:
        source: The released checkpoint, or the saved evoemb model with a copy in its folder ``native``.
        is_copied: Whether it is such a copy, which goes along when the model is saved.
    """

    source: Source
    is_copied: bool = False

    def files(self) -> TensorFiles:
        """Open the checkpoint's tensors."""
        return TensorFiles(self.source)

    def save(self, folder: Path) -> None:
        """Write the reference to a model's folder, and the weights beside it if they go along."""
        if not self.is_copied:
            name = self.source.name
            description = {
                "name": str(Path(name).resolve()) if Path(name).is_dir() else name,
                "revision": self.source.hub.get("revision"),
            }
            (folder / NATIVE_FILE).write_text(json.dumps(description, indent=2), encoding="utf-8")
            return
        if Path(self.source.name, self.source.subfolder).resolve() == (folder / NATIVE_FOLDER).resolve():
            return  # saved where it was loaded from: its file is in use and stays as it is
        files = self.files()
        tensors = {name: files.tensor(name) for name in files.shapes if name.startswith(NATIVE_PREFIX)}
        (folder / NATIVE_FOLDER).mkdir(exist_ok=True)
        save_file(tensors, folder / NATIVE_FOLDER / WEIGHTS_FILE, metadata={"format": "pt"})
        (folder / NATIVE_FILE).write_text(json.dumps({"name": None}, indent=2), encoding="utf-8")

    @classmethod
    def load(cls, origin: Source) -> NativeReference | None:
        """Read the reference of a saved model; None if it has no such model."""
        description = origin.json(NATIVE_FILE)
        if description is None:
            return None
        if description.get("name") is None:
            return cls(Source(origin.name, origin.hub, "/".join(filter(None, (origin.subfolder, NATIVE_FOLDER)))), True)
        return cls(Source(description["name"], {**origin.hub, "revision": description.get("revision")}))


class NativeEmbedder(nn.Module):
    """Embeds texts by themselves: last token of a Qwen3 model, unit length.

    Args:
        files: Tensors that hold the model under ``emb_model.``.
        dtype: Of the loaded weights.
        device: Where they go.

    Raises:
        CheckpointError: The tensors are not those of a Qwen3 model.
    """

    def __init__(self, files: TensorFiles, *, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        shapes = {
            name.removeprefix(NATIVE_PREFIX): shape
            for name, shape in files.shapes.items()
            if name.startswith(NATIVE_PREFIX)
        }
        with EmptyWeights():
            self.model = Qwen3Model(config_from_shapes(shapes, files.source.name))
        for name in self.model.state_dict():
            tensor = files.tensor(f"{NATIVE_PREFIX}model.{name}")
            put_tensor(self.model, name, tensor.to(device=device, dtype=dtype, copy=True))
        self.to(device).eval().requires_grad_(False)

    @torch.no_grad()
    def encode(self, texts: Sequence[Sequence[int]], *, batch_size: int = 32) -> Tensor:
        """Encode token ids, their end included.

        Returns:
            ``(n, D)`` of unit length, in the model's dtype.
        """
        order = sorted(range(len(texts)), key=lambda index: -len(texts[index]))
        found: dict[int, Tensor] = {}
        device = self.model.embed_tokens.weight.device
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            longest = len(texts[rows[0]])
            # Padded on the right: a causal model never looks there, and the last token of a row is known.
            ids = torch.tensor([[*texts[row], *[0] * (longest - len(texts[row]))] for row in rows], device=device)
            last = torch.tensor([[len(texts[row]) - 1] for row in rows], device=device)
            hidden = states_at(self.model, last, input_ids=ids, use_cache=False)  # (n, 1, H)
            found.update(zip(rows, F.normalize(hidden[:, 0], dim=-1), strict=True))
        return torch.stack([found[index] for index in range(len(texts))])


def config_from_shapes(shapes: dict[str, tuple[int, ...]], name: str) -> Qwen3Config:
    """Tell the configuration of a Qwen3 model from the shapes of its weights, so nothing has to be fetched for it.

    Raises:
        CheckpointError: The shapes are not those of a Qwen3 model.
    """
    first = _LAYER.format(0)
    try:
        vocabulary, hidden = shapes["model.embed_tokens.weight"]
        head = shapes[f"{first}self_attn.q_norm.weight"][0]
        queries = shapes[f"{first}self_attn.q_proj.weight"][0]
        keys = shapes[f"{first}self_attn.k_proj.weight"][0]
        inner = shapes[f"{first}mlp.gate_proj.weight"][0]
    except KeyError as error:
        raise CheckpointError(
            f"{name} holds no embedding model for native=True: {error} is missing under {NATIVE_PREFIX}. Use "
            "native=False, or load the checkpoint as it was released."
        ) from error
    layers = len({key.split(".")[2] for key in shapes if key.startswith("model.layers.")})
    return Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=queries // head,
        num_key_value_heads=keys // head,
        head_dim=head,
        attention_bias=f"{first}self_attn.q_proj.bias" in shapes,
        rms_norm_eps=_NORM_EPS,
        rope_parameters={"rope_type": "default", "rope_theta": _ROPE_THETA},
        max_position_embeddings=32768,
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=None,
    )
