"""What a run takes in beside its spec: data sets, and mitigations and environments of the user's own.

Its manifest holds their checksums. What goes on with a run, or adds to what it found, needs the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from ..envs import fingerprints, own_modules
from .errors import RunFolderError
from .folder import RunFolder
from .own_mitigations import checksums
from .plan import Plan


def inputs_of(plan: Plan) -> dict[str, dict[str, str]]:
    """Checksums of ``data`` and ``environments`` by their names, of ``mitigations`` by the files' names."""
    files = own_modules(plan.sequence)
    modules = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}
    return {
        "data": _short(fingerprints(plan.sequence)),
        "environments": _short(modules),
        "mitigations": checksums(plan.spec.mitigations),
    }


def _short(digests: Mapping[str, str]) -> dict[str, str]:
    return {name: f"sha256 {digest[:12]}" for name, digest in digests.items()}


def note_inputs(plan: Plan, folder: RunFolder) -> None:
    """Write the checksums into the manifest of a run that begins."""
    folder.write_manifest({**folder.read_manifest(), "inputs": inputs_of(plan)})


def check_inputs(plan: Plan, folder: RunFolder) -> None:
    """See that everything is as the run was begun with; nothing is known of runs of older versions.

    Raises:
        RunFolderError: something is not.
    """
    found = inputs_of(plan)
    noted = folder.read_manifest().get("inputs", found)
    for kind, now in found.items():
        before = noted.get(kind, now)
        for name in {**before, **now}:
            if before.get(name) != now.get(name):
                raise RunFolderError(
                    f"{name} is not what {str(folder.path)!r} was begun with ({now.get(name, 'none')}, then "
                    f"{before.get(name, 'none')}): put that one back, or begin a new run; if the change does "
                    "not matter, write its checksum under 'inputs' in manifest.json"
                )
