"""What CI runs, to be run here: ``nox`` for the default sessions, ``nox -s tests`` for one, ``nox -l`` for the list."""

import os
import shutil
from pathlib import Path

import nox

nox.needs_version = ">=2024.10.9"
nox.options.default_venv_backend = "venv"
nox.options.sessions = ["lint", "typing", "tests", "docs", "examples"]

PYPROJECT = nox.project.load_toml("pyproject.toml")
OFFLINE = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


def install(session: nox.Session, *what: str, group: str | None = None, constraints: str = "constraints.txt") -> None:
    """Install ``what`` and a dependency group at the constrained versions."""
    requirements = nox.project.dependency_groups(PYPROJECT, group) if group else ()
    session.install("-c", constraints, *what, *requirements)


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff: rules and format."""
    install(session, group="lint")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def tests(session: nox.Session) -> None:
    """The tests with branch coverage; arguments go to pytest."""
    install(session, "-e", ".[offline,train,eval,answer,mteb]", group="tests")
    session.run("coverage", "run", "-m", "pytest", *session.posargs, env=OFFLINE)
    session.run("coverage", "report")


@nox.session
def min_versions(session: nox.Session) -> None:
    """The tests at the lowest supported versions."""
    install(session, "-e", ".[offline,train,eval,answer]", group="tests", constraints="constraints-min.txt")
    session.run("pytest", *session.posargs, env=OFFLINE)


@nox.session
def typing(session: nox.Session) -> None:
    """Mypy, strict, over the package and the uses of it that must type-check."""
    install(session, "-e", ".", group="typing")
    session.run("mypy", "src", "tests/typing")


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation, warnings as errors."""
    install(session, "-e", ".", group="docs")
    session.run("sphinx-build", "-W", "--keep-going", "-b", "html", "docs", "docs/_build/html")


@nox.session
def examples(session: nox.Session) -> None:
    """Every example, as a user would run it."""
    install(session, "-e", ".[offline,train,eval]")
    scripts = sorted(Path("examples").resolve().glob("*.py"))
    session.chdir(session.create_tmp())
    for script in scripts:
        session.run("python", str(script), env=OFFLINE)


@nox.session
def build(session: nox.Session) -> None:
    """Source distribution and wheel; then the wheel alone, away from the tree."""
    constraints, empty = Path("constraints.txt").resolve(), session.create_tmp()
    shutil.rmtree(Path(empty, "dist"), ignore_errors=True)
    install(session, "build")
    session.run("python", "-m", "build", "--outdir", f"{empty}/dist")
    (wheel,) = Path(empty, "dist").resolve().glob("*.whl")
    session.run("python", "-m", "venv", "--clear", f"{empty}/bare")
    bare = Path(empty, "bare", "Scripts" if os.name == "nt" else "bin").resolve()
    python = str(bare / "python")
    session.chdir(empty)
    session.run(python, "-m", "pip", "install", "-q", "-c", str(constraints), str(wheel), external=True)
    session.run(python, "-c", "import evoemb; print(evoemb.__version__, evoemb.__all__)", external=True)
    shipped = "from evoemb.default_model.packaged import packaged_model; print(packaged_model(None).base)"
    session.run(python, "-c", shipped, external=True)
    session.run(str(bare / "evoemb"), "--help", external=True)
