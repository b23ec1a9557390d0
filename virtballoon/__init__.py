"""Guest memory figures of libvirt/QEMU domains through the virtio balloon.

Read a host's domains with :func:`read_host`, or one domain with :func:`read_domain`; set polling
intervals with :func:`set_intervals` and :func:`set_interval`; find out with :func:`diagnose_host`
and :func:`diagnose_domain` why statistics are missing or stale. Each takes a URI, or a libvirt
connection (or domain), which is never closed here. Results are frozen dataclasses; every error is a
:class:`VirtballoonError`.

The public names are those of ``__init__.pyi``. Each is imported when it is first used, so that
importing the package costs nothing.
"""

from __future__ import annotations

__version__ = "0.2.0"


def _homes() -> dict[str, str]:
    """The module of each public name, as the stub has them."""
    import re
    from pathlib import Path

    stub = Path(__file__).with_suffix(".pyi").read_text(encoding="ascii")
    return {
        name: module
        for module, names in re.findall(r"^from (\S+) import (\([^)]*\)|.*)", stub, re.MULTILINE)
        for name in re.findall(r"(\w+) as", names)
    }


def __getattr__(name: str) -> object:
    # Private names are no module's: import asks for some, such as __path__.
    homes = {} if name.startswith("_") and name != "__all__" else _homes()
    if name == "__all__":
        value: object = sorted([*homes, "__version__"])
    elif name in homes:
        from importlib import import_module

        value = getattr(import_module(homes[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_homes()})
