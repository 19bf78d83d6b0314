"""Packages that bring a model, as they lie on the disk once they are installed."""

from pathlib import Path


def install(site: Path, name: str, code: str, found: str, *, package: str | None = None) -> str:
    """Make a package with an entry point for whoever has its folder in the path; return that.

    Parameters
    ----------
    code : str
        Its one module.
    found : str
        The object there that the entry point names.
    package : str, optional
        Its name; that of the model where absent.
    """
    package = package or name
    about = site / f"{package}-1.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1\n")
    module = f"{package.replace('-', '_')}_model"
    (about / "entry_points.txt").write_text(f"[osteon.models]\n{name} = {module}:{found}\n")
    (site / f"{module}.py").write_text(code)
    return str(site)
