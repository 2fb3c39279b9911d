"""What can go wrong in a run for a reason that the person at the keyboard can mend."""


class RunError(ValueError):
    """Base of the errors whose text is meant for a person: the command line prints it and exits with 2."""


class SpecError(RunError):
    """A preset, an arm, a setting or a file of settings that is not understood."""


class RunFolderError(RunError):
    """A run folder that cannot be created, read, or continued."""


class DamagedFile(RunFolderError):
    """A file of a run folder that is there but cannot be read."""


class FolderInUse(RunFolderError):
    """Another process writes to the run folder."""


class DiskFull(RunFolderError):
    """There is no room left for what a run has to write."""


class EnvironmentFault(RunError):
    """An environment that raised, or gave what no agent can learn from."""


class TooLarge(RunError):
    """A run that needs more memory or disk than there is, found out before it starts."""


class ProcessKilled(RunError):
    """A process that did part of the work was killed, often because memory ran out."""


class Sb3FileError(RunError):
    """A file of stable-baselines3 that is not trusted, not understood, or cannot be made of this agent."""


class Incomparable(RunError):
    """Runs that cannot stand side by side in one report."""


class DeviceError(RunError):
    """A device that this machine does not have."""


class RunInterrupted(Exception):
    """Raised between two rollouts after Ctrl-C; the text says from where the run will go on."""
