"""Errors of the agents, one class per cause. Their text says what came, what was expected and what to do."""


class AgentError(Exception):
    """Base of every error that the agents raise on purpose."""


class InvalidSetting(AgentError, ValueError):
    """An argument of an agent, a network or a mitigation has a value that makes no sense."""


class UnsupportedSpace(AgentError, ValueError):
    """An agent or a network was given an observation or action space that it cannot handle."""


class NonFiniteLoss(AgentError, RuntimeError):
    """The loss, its gradient or an observation is NaN or infinite; raised before the optimiser takes a step.

    The parameters are those of the last good update, so the agent can still be saved and examined.

    Args:
        quantity: what is not finite, for example ``"value_loss"``.
        updates: gradient updates taken before this one.
    """

    def __init__(self, quantity: str, updates: int) -> None:
        self.quantity = quantity
        self.updates = updates
        super().__init__(
            f"{quantity} is not finite after {updates} gradient updates; the optimiser did not follow it. "
            "Look for NaN or very large rewards and observations; if they are sound, lower the learning rate "
            "or the strength of the mitigations, or clip gradients harder (max_grad_norm)."
        )

    def __reduce__(self) -> tuple[type["NonFiniteLoss"], tuple[str, int]]:
        return type(self), (self.quantity, self.updates)
