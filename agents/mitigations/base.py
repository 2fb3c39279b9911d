"""What a mitigation is: an object with hooks into training, all of them optional."""

from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..types import Observations, Update

if TYPE_CHECKING:
    from ..base import Agent


class Mitigation:
    """One way of keeping an agent able to learn. Subclasses override the hooks they need.

    Hooks run in this order: ``build`` before the networks exist, ``attach`` once they do, ``on_task_start``
    at each switch; then, at every gradient update, ``before_update``, ``penalty``, the optimiser step and
    ``after_update``. Mitigations combine freely; with none an agent is exactly stable-baselines3.

    An agent's ``save`` pickles its mitigations. Settings and counters belong in public attributes, which are
    saved; what refers to the agent or its tensors in attributes with a leading underscore, which are not:
    give them a default in the class and make them anew in ``attach``.
    """

    def build(self, policy_kwargs: dict[str, Any], agent_name: str) -> dict[str, Any]:
        """Return the policy's keyword arguments, changed as needed (a layer norm, another activation, ...).

        Args:
            policy_kwargs: as given to the agent, names already looked up; do not change it in place.
            agent_name: ``"ppo"`` or ``"dqn"``.
        """
        return policy_kwargs

    def attach(self, agent: "Agent") -> None:
        """Prepare for this agent, whose policy and optimiser exist now."""

    def penalty(self, agent: "Agent", observations: Observations) -> Tensor | None:
        """A differentiable scalar added to the descended loss of this minibatch, or ``None``."""
        return None

    def before_update(self, agent: "Agent", update: Update) -> None:
        """Called before the loss of a minibatch is computed."""

    def after_update(self, agent: "Agent", update: Update) -> None:
        """Called after the optimiser step."""

    def on_task_start(self, agent: "Agent", task: int) -> None:
        """Called at each switch, before the first environment step of task number ``task`` (from 0)."""

    def values(self) -> dict[str, float]:
        """What to log, as ``plasticity/<key>``, whenever the agent dumps its log."""
        return {}

    def state(self) -> dict[str, Any]:
        """Whatever changes during training and must survive a checkpoint: numbers and tensors by name."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Put back what ``state`` returned."""

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if not key.startswith("_")}
