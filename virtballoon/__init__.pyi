"""The public names, for type checkers and for ``__getattr__``, which reads this file."""

from virtballoon.check.judging import (
    CheckResult as CheckResult,
    CheckStatus as CheckStatus,
    CheckedDomain as CheckedDomain,
    Measure as Measure,
    Measurement as Measurement,
    Policy as Policy,
    Problem as Problem,
    Thresholds as Thresholds,
    Trouble as Trouble,
    check_hosts as check_hosts,
)
from virtballoon.check.ranges import Range as Range
from virtballoon.configuration import (
    Configuration as Configuration,
    ConfiguredHost as ConfiguredHost,
    load_configuration as load_configuration,
)
from virtballoon.doctor.causes import Cause as Cause, Sign as Sign
from virtballoon.doctor.examination import (
    diagnose_domain as diagnose_domain,
    diagnose_host as diagnose_host,
)
from virtballoon.doctor.results import (
    CommandPrefixes as CommandPrefixes,
    Diagnosis as Diagnosis,
    Evidence as Evidence,
    HostDiagnosis as HostDiagnosis,
    PossibleCause as PossibleCause,
)
from virtballoon.engine.fleet import on_hosts as on_hosts
from virtballoon.errors import (
    AccessDenied as AccessDenied,
    AmbiguousDomain as AmbiguousDomain,
    AuthError as AuthError,
    Busy as Busy,
    BusyReason as BusyReason,
    ConfigurationError as ConfigurationError,
    ConnectError as ConnectError,
    ConnectionLost as ConnectionLost,
    DomainError as DomainError,
    DomainNotFound as DomainNotFound,
    DomainXMLError as DomainXMLError,
    HostError as HostError,
    HostKeyError as HostKeyError,
    HostUnreachable as HostUnreachable,
    Incoming as Incoming,
    InvalidInterval as InvalidInterval,
    LibvirtFailure as LibvirtFailure,
    MonitorError as MonitorError,
    NoBalloon as NoBalloon,
    NoDaemon as NoDaemon,
    NotRunning as NotRunning,
    NotSupported as NotSupported,
    ReadOnly as ReadOnly,
    TransientDomain as TransientDomain,
    VirtballoonError as VirtballoonError,
)
from virtballoon.exporter.ensuring import IntervalEnsurer as IntervalEnsurer
from virtballoon.exporter.snapshots import SharedReader as SharedReader, Snapshot as Snapshot
from virtballoon.hypervisor.connection import Connection as Connection, Target as Target
from virtballoon.hypervisor.domain import (
    AnyDomain as AnyDomain,
    Control as Control,
    Domain as Domain,
    DomainStatistics as DomainStatistics,
)
from virtballoon.hypervisor.domainxml import DomainXML as DomainXML, use_labels as use_labels
from virtballoon.hypervisor.qmp import Monitor as Monitor
from virtballoon.model.balloon import Balloon as Balloon
from virtballoon.model.hostmemory import HostFigures as HostFigures, HostMemory as HostMemory
from virtballoon.model.memory import (
    Anomaly as Anomaly,
    Figures as Figures,
    Usage as Usage,
    UsedFormula as UsedFormula,
)
from virtballoon.model.outcome import (
    DomainWait as DomainWait,
    HostChanges as HostChanges,
    HostProbe as HostProbe,
    HostQomPath as HostQomPath,
    HostWait as HostWait,
    IntervalChange as IntervalChange,
    Outcome as Outcome,
    QomPath as QomPath,
    Waited as Waited,
)
from virtballoon.model.pressure import Pressure as Pressure
from virtballoon.model.rates import NoRate as NoRate, Rates as Rates, Sample as Sample
from virtballoon.model.report import (
    DomainReport as DomainReport,
    HostReport as HostReport,
    HostStatus as HostStatus,
    Interval as Interval,
    Refresh as Refresh,
    Unheard as Unheard,
)
from virtballoon.model.selection import (
    Exclude as Exclude,
    Excluded as Excluded,
    Where as Where,
)
from virtballoon.model.source import Source as Source
from virtballoon.model.statistics import (
    COUNTERS as COUNTERS,
    Kind as Kind,
    MemoryStats as MemoryStats,
    STATISTICS as STATISTICS,
    STATISTIC_BY_NAME as STATISTIC_BY_NAME,
    Statistic as Statistic,
    Unit as Unit,
)
from virtballoon.model.verdict import (
    State as State,
    Verdict as Verdict,
    fresh_seconds as fresh_seconds,
    judge as judge,
)
from virtballoon.operations.fleet import (
    read_hosts as read_hosts,
    set_intervals_on_hosts as set_intervals_on_hosts,
)
from virtballoon.operations.reading import (
    find_qom_path as find_qom_path,
    iter_domains as iter_domains,
    probe_host as probe_host,
    qom_path as qom_path,
    read_domain as read_domain,
    read_host as read_host,
)
from virtballoon.operations.refreshing import read_fresh as read_fresh
from virtballoon.operations.setting import (
    IntervalRequest as IntervalRequest,
    check_interval as check_interval,
    set_interval as set_interval,
    set_intervals as set_intervals,
)
from virtballoon.operations.waiting import wait_for_update as wait_for_update
from virtballoon.render.conditions import where as where
from virtballoon.sizing.day import Day as Day, Histogram as Histogram, History as History
from virtballoon.sizing.rule import Advice as Advice, Sizing as Sizing, advise as advise
from virtballoon.sizing.store import Store as Store
from virtballoon.watch.poller import HostPoller as HostPoller, Reading as Reading

__version__: str
__all__: list[str]
