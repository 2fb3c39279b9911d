"""What a run takes in beside its spec: data sets, and mitigations of the user's own.

Its manifest holds their checksums. What goes on with a run, or adds to what it found, needs the same.
"""

from __future__ import annotations

from ..envs import fingerprints
from .errors import RunFolderError
from .folder import RunFolder
from .own_mitigations import checksums
from .plan import Plan


def inputs_of(plan: Plan) -> dict[str, dict[str, str]]:
    """``data``, by the names of the data sets, and ``mitigations``, by the files that the run uses."""
    data = {name: f"sha256 {digest[:12]}" for name, digest in fingerprints(plan.sequence).items()}
    return {"data": data, "mitigations": checksums(plan.spec.mitigations)}


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
        before = noted.get(kind, {})
        for name in {**before, **now}:
            if before.get(name) != now.get(name):
                raise RunFolderError(
                    f"{name} is not what {str(folder.path)!r} was begun with ({now.get(name, 'none')}, then "
                    f"{before.get(name, 'none')}): put that one back, or begin a new run; if the change does "
                    "not matter, write its checksum under 'inputs' in manifest.json"
                )
