"""What a mitigation is: an object with hooks into training, all of them optional."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from ..errors import InvalidSetting
from ..types import Observations, Update

if TYPE_CHECKING:
    from ..base import Agent


class Mitigation:
    """One way of keeping an agent able to learn. Subclasses override the hooks they need.

    Hooks run in this order: ``build`` before the networks exist, ``remodel`` once they do, ``attach`` when
    they are initialised, ``on_task_start`` at each switch, and ``on_redraw`` if whole parameters are drawn
    anew there; then, at every gradient update, ``before_update``, ``penalty``, the optimiser step and
    ``after_update``. Mitigations combine freely, but for those that ``conflicts`` names; with none an agent
    is exactly stable-baselines3.

    What training changes is returned by ``state`` (numbers) and ``tensors``, so that a resumed run equals one
    that was never stopped: both checkpoints and the agent's ``save`` keep them. ``save`` also pickles the
    public attributes, the settings. Attributes with a leading underscore are not pickled: give them a default
    in the class and make them anew in ``attach``. Draw random numbers from torch's global generator on the
    CPU, whose state is saved.
    """

    conflicts: ClassVar[Mapping[str, str]] = {}
    """Class names of the mitigations that this one cannot work with, and why."""

    remodel_rank: ClassVar[int] = 0
    """Among those that remodel, the lowest go first."""

    attached: bool = False
    """Whether it belongs to an agent, so that there is something that it may have gathered."""

    _kept: tuple[dict[str, Any], dict[str, Tensor]] | None = None

    def build(self, policy_kwargs: dict[str, Any], agent_name: str) -> dict[str, Any]:
        """Return the policy's keyword arguments, changed as needed (a layer norm, another activation, ...).

        Args:
            policy_kwargs: as given to the agent, names already looked up; do not change it in place.
            agent_name: ``"ppo"`` or ``"dqn"``.
        """
        return policy_kwargs

    def remodel(self, agent: "Agent") -> None:
        """Change the networks of an agent whose policy has just been built (put a layer norm in, ...).

        The agent then draws their weights, makes its optimiser anew, and gives DQN's target network the same
        shape. Also called for each `Agent.fresh` twin: keep nothing that belongs to the agent.
        """

    def attach(self, agent: "Agent") -> None:
        """Prepare for this agent, whose policy and optimiser exist now."""

    def penalty(self, agent: "Agent", observations: Observations) -> Tensor | None:
        """A differentiable scalar added to the descended loss of this minibatch, or ``None``.

        ``agent.features(observations)`` costs nothing here: it is what the loss's own forward pass has seen,
        and its graph is that of the loss. To differentiate it takes ``retain_graph=True``; the features of
        other parameters, put in for a moment, are had within ``torch.no_grad()``.
        """
        return None

    def before_update(self, agent: "Agent", update: Update) -> None:
        """Called before the loss of a minibatch is computed."""

    def after_update(self, agent: "Agent", update: Update) -> None:
        """Called after the optimiser step."""

    def on_task_start(self, agent: "Agent", task: int) -> None:
        """Called at each switch, before the first environment step of task number ``task`` (from 0)."""

    def on_redraw(self, agent: "Agent", parameters: Mapping[str, nn.Parameter]) -> None:
        """Called when these have just begun anew: what is remembered of their past is of no use any more.

        A reset, an injected head or a classifier's new one does that, to each tensor as a whole; units that
        are renewed do not count.

        Args:
            agent: whose.
            parameters: some or all that are trained, by name in the policy.
        """

    def overrides(self, hook: str) -> bool:
        """Whether this one has a hook of its own: in its class, or set on the object."""
        own = getattr(self, hook)
        return getattr(own, "__func__", own) is not getattr(Mitigation, hook)

    def note(self, tasks: int) -> str | None:
        """What a person should know before a run of so many tasks begins: that it will never act, say."""
        return None

    def values(self) -> dict[str, float]:
        """What to log, as ``plasticity/<key>``, whenever the agent dumps its log."""
        return {}

    def state(self) -> dict[str, Any]:
        """Whatever changes during training and must survive a checkpoint: what JSON can hold, by name."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Put back what ``state`` returned."""

    def tensors(self) -> dict[str, Tensor]:
        """The tensors among it, by name."""
        return {}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Put back what ``tensors`` returned, after ``attach``.

        Raises:
            KeyError: one is missing.
        """

    def restore(self) -> None:
        """Put back what came with a pickle; the agent calls it after ``attach``, which made things anew."""
        if self._kept is not None:
            state, tensors = self._kept
            self.load_state(state)
            self.load_tensors(tensors)
            self._kept = None

    def __getstate__(self) -> dict[str, Any]:
        settings = {k: v for k, v in vars(self).items() if not k.startswith("_") and k != "attached"}
        if not self.attached:
            return {**settings, "_kept": self._kept}
        tensors = {name: tensor.detach().cpu().clone() for name, tensor in self.tensors().items()}
        return {**settings, "_kept": (self.state(), tensors)}


def check_combination(mitigations: Iterable[Mitigation]) -> None:
    """See that each mitigation can work beside the others.

    Raises:
        InvalidSetting: two cannot; the text says why.
    """
    mitigations = list(mitigations)
    names = [type(mitigation).__name__ for mitigation in mitigations]
    for place, mitigation in enumerate(mitigations):
        name = type(mitigation).__name__
        if any(mitigation is other for other in mitigations[:place]):
            raise InvalidSetting(
                f"mitigations has one {name} twice: make two objects of it, or leave one out."
            )
        if name in names[:place] and (mitigation.overrides("build") or mitigation.overrides("remodel")):
            raise InvalidSetting(f"mitigations has {name} twice, but it changes the networks only once.")
        for other, reason in mitigation.conflicts.items():
            if other in names:
                raise InvalidSetting(f"{name} cannot work with {other}: {reason}")
