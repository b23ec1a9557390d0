"""Guest memory figures of libvirt/QEMU domains through the virtio balloon.

Read a host's domains with :func:`read_host`, one at hand with :func:`read_domain`; turn polling
on with :func:`set_intervals` and :func:`set_interval`; find out with :func:`diagnose_host` and
:func:`diagnose_domain` why a guest gives nothing. Each takes a URI or a libvirt connection
(or domain) that the caller has already, and never closes what it did not open. What comes back is
frozen dataclasses; what goes wrong is a :class:`VirtballoonError`.

Importing the package imports nothing but this file: names are looked up when they are first used.
"""

from __future__ import annotations

# Not typing's, whose import takes longer than all that the command does before it minds Ctrl-C.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from virtballoon.check.judging import (
        CheckedDomain,
        CheckedHost,
        CheckResult,
        CheckStatus,
        Measure,
        Measurement,
        Perfdatum,
        Policy,
        Problem,
        Thresholds,
        Trouble,
        check_hosts,
    )
    from virtballoon.check.ranges import Range
    from virtballoon.configuration import Configuration, ConfiguredHost, load_configuration
    from virtballoon.doctor.causes import Cause, Sign
    from virtballoon.doctor.examination import diagnose_domain, diagnose_host, diagnose_hosts
    from virtballoon.doctor.results import (
        CommandPrefixes,
        Diagnosis,
        Evidence,
        HostDiagnosis,
        PossibleCause,
    )
    from virtballoon.errors import (
        AccessDenied,
        AmbiguousDomain,
        AuthError,
        Busy,
        BusyReason,
        ConfigurationError,
        ConnectError,
        ConnectionLost,
        DomainError,
        DomainNotFound,
        DomainXMLError,
        HostError,
        HostKeyError,
        HostUnreachable,
        Incoming,
        InvalidInterval,
        LibvirtFailure,
        MonitorError,
        NoBalloon,
        NoDaemon,
        NotRunning,
        NotSupported,
        ReadOnly,
        TransientDomain,
        VirtballoonError,
    )
    from virtballoon.exporter.ensuring import IntervalEnsurer
    from virtballoon.exporter.snapshots import SharedReader, Snapshot
    from virtballoon.hypervisor.connection import (
        AnyDomain,
        Connection,
        Control,
        Domain,
        DomainStatistics,
        Target,
    )
    from virtballoon.hypervisor.qmp import Monitor, QomChild
    from virtballoon.model.balloon import Balloon, BalloonConfig
    from virtballoon.model.memory import Anomaly, Figures, Usage, UsedFormula
    from virtballoon.model.outcome import (
        DomainWait,
        HostChanges,
        HostProbe,
        HostWait,
        IntervalChange,
        Outcome,
        Waited,
    )
    from virtballoon.model.rates import NoRate, Rates, Sample
    from virtballoon.model.report import (
        DomainReport,
        HostReport,
        HostStatus,
        Interval,
        Refresh,
        Unheard,
    )
    from virtballoon.model.source import Source
    from virtballoon.model.statistics import (
        COUNTERS,
        STATISTIC_BY_NAME,
        STATISTICS,
        Kind,
        MemoryStats,
        Statistic,
        Unit,
    )
    from virtballoon.model.verdict import State, Verdict, fresh_seconds, judge
    from virtballoon.operations.fleet import (
        find_qom_paths,
        iter_hosts,
        probe_hosts,
        read_hosts,
        read_rates,
        set_intervals_on_hosts,
    )
    from virtballoon.operations.reading import (
        QomPath,
        find_qom_path,
        iter_domains,
        qom_path,
        read_domain,
        read_host,
    )
    from virtballoon.operations.refreshing import read_fresh
    from virtballoon.operations.setting import (
        IntervalRequest,
        check_interval,
        set_interval,
        set_intervals,
    )
    from virtballoon.operations.waiting import wait_for_update
    from virtballoon.watch.poller import HostPoller, Reading

__version__ = "0.1.0"

_HOMES = {
    "model.balloon": ("Balloon", "BalloonConfig"),
    "check.judging": (
        "CheckResult",
        "CheckStatus",
        "CheckedDomain",
        "CheckedHost",
        "Measure",
        "Measurement",
        "Perfdatum",
        "Policy",
        "Problem",
        "Thresholds",
        "Trouble",
        "check_hosts",
    ),
    "configuration": ("Configuration", "ConfiguredHost", "load_configuration"),
    "hypervisor.connection": (
        "Anomaly",
        "AnyDomain",
        "Connection",
        "Control",
        "Domain",
        "DomainStatistics",
        "Target",
    ),
    "doctor.causes": ("Cause", "Sign"),
    "doctor.examination": ("diagnose_domain", "diagnose_host", "diagnose_hosts"),
    "doctor.results": (
        "CommandPrefixes",
        "Diagnosis",
        "Evidence",
        "HostDiagnosis",
        "PossibleCause",
    ),
    "errors": (
        "AccessDenied",
        "AmbiguousDomain",
        "AuthError",
        "Busy",
        "BusyReason",
        "ConfigurationError",
        "ConnectError",
        "ConnectionLost",
        "DomainError",
        "DomainNotFound",
        "DomainXMLError",
        "HostError",
        "HostKeyError",
        "HostUnreachable",
        "Incoming",
        "InvalidInterval",
        "LibvirtFailure",
        "MonitorError",
        "NoBalloon",
        "NoDaemon",
        "NotRunning",
        "NotSupported",
        "ReadOnly",
        "TransientDomain",
        "VirtballoonError",
    ),
    "operations.fleet": (
        "find_qom_paths",
        "iter_hosts",
        "probe_hosts",
        "read_hosts",
        "read_rates",
        "set_intervals_on_hosts",
    ),
    "watch.poller": ("HostPoller", "Reading"),
    "operations.refreshing": ("read_fresh",),
    "model.memory": ("Anomaly", "Figures", "Usage", "UsedFormula"),
    "model.outcome": (
        "DomainWait",
        "HostChanges",
        "HostProbe",
        "HostWait",
        "IntervalChange",
        "Outcome",
        "Waited",
    ),
    "hypervisor.qmp": ("Monitor", "QomChild"),
    "model.rates": ("NoRate", "Rates", "Sample"),
    "operations.reading": (
        "QomPath",
        "find_qom_path",
        "iter_domains",
        "qom_path",
        "read_domain",
        "read_host",
    ),
    "model.report": ("DomainReport", "HostReport", "HostStatus", "Interval", "Refresh", "Unheard"),
    "exporter.ensuring": ("IntervalEnsurer",),
    "exporter.snapshots": ("SharedReader", "Snapshot"),
    "operations.setting": (
        "IntervalRequest",
        "check_interval",
        "set_interval",
        "set_intervals",
    ),
    "model.source": ("Source",),
    "model.statistics": (
        "COUNTERS",
        "STATISTICS",
        "STATISTIC_BY_NAME",
        "Kind",
        "MemoryStats",
        "Statistic",
        "Unit",
    ),
    "check.ranges": ("Range",),
    "model.verdict": ("State", "Verdict", "fresh_seconds", "judge"),
    "operations.waiting": ("wait_for_update",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "COUNTERS",
    "STATISTICS",
    "STATISTIC_BY_NAME",
    "AccessDenied",
    "AmbiguousDomain",
    "Anomaly",
    "AnyDomain",
    "AuthError",
    "Balloon",
    "BalloonConfig",
    "Busy",
    "BusyReason",
    "Cause",
    "CheckResult",
    "CheckStatus",
    "CheckedDomain",
    "CheckedHost",
    "CommandPrefixes",
    "Configuration",
    "ConfigurationError",
    "ConfiguredHost",
    "ConnectError",
    "Connection",
    "ConnectionLost",
    "Control",
    "Diagnosis",
    "Domain",
    "DomainError",
    "DomainNotFound",
    "DomainReport",
    "DomainStatistics",
    "DomainWait",
    "DomainXMLError",
    "Evidence",
    "Figures",
    "HostChanges",
    "HostDiagnosis",
    "HostError",
    "HostKeyError",
    "HostPoller",
    "HostProbe",
    "HostReport",
    "HostStatus",
    "HostUnreachable",
    "HostWait",
    "Incoming",
    "Interval",
    "IntervalChange",
    "IntervalEnsurer",
    "IntervalRequest",
    "InvalidInterval",
    "Kind",
    "LibvirtFailure",
    "Measure",
    "Measurement",
    "MemoryStats",
    "Monitor",
    "MonitorError",
    "NoBalloon",
    "NoDaemon",
    "NoRate",
    "NotRunning",
    "NotSupported",
    "Outcome",
    "Perfdatum",
    "Policy",
    "PossibleCause",
    "Problem",
    "QomChild",
    "QomPath",
    "Range",
    "Rates",
    "ReadOnly",
    "Reading",
    "Refresh",
    "Sample",
    "SharedReader",
    "Sign",
    "Snapshot",
    "Source",
    "State",
    "Statistic",
    "Target",
    "Thresholds",
    "TransientDomain",
    "Trouble",
    "Unheard",
    "Unit",
    "Usage",
    "UsedFormula",
    "Verdict",
    "VirtballoonError",
    "Waited",
    "__version__",
    "check_hosts",
    "check_interval",
    "diagnose_domain",
    "diagnose_host",
    "diagnose_hosts",
    "find_qom_path",
    "find_qom_paths",
    "fresh_seconds",
    "iter_domains",
    "iter_hosts",
    "judge",
    "load_configuration",
    "probe_hosts",
    "qom_path",
    "read_domain",
    "read_fresh",
    "read_host",
    "read_hosts",
    "read_rates",
    "set_interval",
    "set_intervals",
    "set_intervals_on_hosts",
    "wait_for_update",
]


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value: object = getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
