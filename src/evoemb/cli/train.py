"""``evoemb train``: fine-tune a model from a configuration file, from options, or from both."""

from __future__ import annotations

import argparse
from typing import Any

from evoemb._errors import InputError
from evoemb.cli import output, session

_EXAMPLES = """
examples:
  evoemb data check chats.jsonl
  evoemb train --train chats.jsonl --output run --epochs 3 --learning-rate 1e-3
  evoemb train recipe.yaml --set training.learning_rate=2e-5
  torchrun --nproc-per-node 8 -m evoemb.cli train recipe.yaml

The file is YAML with the names of evoemb.training.TrainingConfig: train, output, model, eval, memory, loss, recipe,
training (any argument of the trainer), and so on. Options stand above the file.
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add this command to the command line."""
    parser = commands.add_parser(
        "train",
        help="fine-tune a model on streams",
        description="Fine-tune a model on streams with questions and evidence.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", metavar="CONFIG.yaml", nargs="?", help="configuration file")
    parser.add_argument("--train", metavar="FILE", help="rows to train on; formats: see evoemb data check --help")
    parser.add_argument("--eval", metavar="FILE", help="rows to evaluate on")
    parser.add_argument("--output", metavar="FOLDER", help="folder for checkpoints; the model goes to FOLDER/final")
    parser.add_argument(
        "--model",
        help="folder or Hub id to start from (default: all-MiniLM-L6-v2 with a fresh memory; evoemb-minilm goes on "
        "from the trained model that ships with evoemb)",
    )
    parser.add_argument("--device", help="where to compute: cpu, cuda, ... (default: the best there is)")
    parser.add_argument("--epochs", dest="num_train_epochs", type=float, help="passes over the data")
    parser.add_argument("--max-steps", type=session.positive_int, help="steps, instead of epochs")
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument(
        "--batch-size", dest="per_device_train_batch_size", type=session.positive_int, metavar="STREAMS"
    )
    parser.add_argument("--bptt-turns", type=session.positive_int, metavar="TURNS", help="turns that gradients go back")
    parser.add_argument("--bad-rows", choices=("raise", "skip"), help="what becomes of broken rows (default: raise)")
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint in the folder")
    parser.add_argument(
        "--set", dest="changes", metavar="NAME=VALUE", action="append", default=[], help="any other value, in YAML"
    )
    parser.add_argument("--quiet", action="store_true", help="no notices and no progress on standard error")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Train, and say where the model is."""
    session.quieten(args)
    import yaml

    from evoemb.training.config import TrainingConfig, train

    changes = _changes(args, yaml.safe_load)
    if args.config is None:
        config = TrainingConfig.from_mapping(changes)
    else:
        config = TrainingConfig.from_yaml(args.config, changes)
    trainer = train(config)
    if trainer.is_world_process_zero() and not args.quiet:
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        course = f" Training loss {losses[0]:.4g} -> {losses[-1]:.4g}." if losses else ""
        output.write_notice(
            f'{trainer.state.global_step} steps.{course} Load it with EvoEmbedding("{config.output}/final").'
        )


def _changes(args: argparse.Namespace, parse: Any) -> dict[str, Any]:
    """Return what the options say, in the shape of a configuration."""
    changes: dict[str, Any] = {}
    for name in ("train", "eval", "output", "model", "device"):
        if getattr(args, name) is not None:
            changes[name] = getattr(args, name)
    names = ("num_train_epochs", "max_steps", "learning_rate", "per_device_train_batch_size", "bptt_turns", "bad_rows")
    training = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    if args.quiet:
        training["disable_tqdm"] = True
    if args.device is not None and args.device.startswith("cpu"):
        training["use_cpu"] = True
    if training:
        changes["training"] = training
    if args.resume:
        changes["resume"] = True
    for change in args.changes:
        name, equals, value = change.partition("=")
        if not equals:
            raise InputError(f"--set {change} was given. Write --set name=value, or --set training.name=value.")
        target = changes
        *outer, last = name.split(".")
        for part in outer:
            target = target.setdefault(part, {})
        target[last] = parse(value)
    return changes
