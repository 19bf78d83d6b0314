"""The optional parts of the installation: load one, or say which command installs it.

Called where a setting or a command asks for an extra; nothing else imports what stands behind it.
"""

from importlib import import_module
from types import ModuleType

from osteon.errors import ConfigError


def load_extra(module: str, extra: str, asked_by: str) -> ModuleType:
    """Import a module of this package that needs an extra.

    Parameters
    ----------
    module : str
        Full name of the module.
    extra : str
        Name of the extra in the package's metadata.
    asked_by : str
        The key or command that needs it, for the message.

    Raises
    ------
    ConfigError
        The extra is not installed.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{asked_by} needs {error.name}, which is not installed: pip install 'osteon[{extra}]'"
        ) from error
