"""Why a local cluster could not start or go on."""


class ClusterError(Exception):
    """Base; the message says what happened and what to do."""


class ClusterConfigurationError(ClusterError):
    """The cluster cannot start as it was told to; trying again changes nothing."""


class ClusterFailedError(ClusterError):
    """A process does not come up; the message ends with the last lines it wrote."""
