"""What a run takes in beside its spec: data sets, and mitigations of the user's own.

Its manifest holds their checksums. A run that goes on with others would be neither the one nor the other.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..envs import fingerprints
from .errors import RunFolderError
from .folder import RunFolder
from .own_mitigations import checksums
from .plan import Plan


def inputs_of(plan: Plan) -> dict[str, str]:
    """The checksum of each data set, and of each file of mitigations that the run uses."""
    data = fingerprints(plan.sequence)
    return {
        **{f"data {name}": f"sha256 {digest[:12]}" for name, digest in data.items()},
        **checksums(plan.spec.mitigations),
    }


def note_inputs(plan: Plan, folder: RunFolder, *, resume: bool) -> None:
    """Write the checksums into the manifest, or, with ``resume``, see that they are those written there.

    Raises:
        RunFolderError: something is not what the run was begun with.
    """
    manifest, now = folder.read_manifest(), inputs_of(plan)
    before: Mapping[str, str] | None = manifest.get("inputs")
    if resume and before is not None:
        changed = [name for name in {**before, **now} if before.get(name) != now.get(name)]
        if changed:
            name = changed[0]
            raise RunFolderError(
                f"{name} is not what {str(folder.path)!r} was begun with ({now.get(name, 'none')}, then "
                f"{before.get(name, 'none')}): put that one back, or begin a new run; if the change does not "
                "matter, write its checksum under 'inputs' in manifest.json"
            )
    else:
        folder.write_manifest({**manifest, "inputs": now})
