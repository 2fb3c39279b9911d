"""On a CUDA device, too, the agents are stable-baselines3's and gathering leaves no trace."""

import pytest
import stable_baselines3
import torch

from pliant.agents import AGENTS, DQN, L2, PPO, Classifier, EffectiveRank, effective_rank

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("ignore:You are trying to run PPO on the GPU:UserWarning"),
]
SMALL = {
    PPO: {"n_steps": 32, "batch_size": 8, "n_epochs": 2},
    DQN: {"buffer_size": 60, "learning_starts": 10, "target_update_interval": 20},
    Classifier: {"batch_size": 8, "updates_per_rollout": 4},
}


@pytest.mark.parametrize("algorithm", [PPO, DQN])
def test_agents_equal_stable_baselines3_on_the_gpu(algorithm, toy):
    def train(one):
        return (
            one("MlpPolicy", toy(), seed=0, device="cuda", **SMALL[algorithm]).learn(64).policy.state_dict()
        )

    ours, theirs = train(algorithm), train(getattr(stable_baselines3, algorithm.__name__))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("algorithm", AGENTS.values())
def test_gather_restores_the_random_state_of_the_gpu(algorithm, toy):
    agent = algorithm("MlpPolicy", toy(), seed=0, device="cuda", **SMALL[algorithm]).learn(64)
    before = torch.cuda.get_rng_state_all()
    batch = agent.gather(toy(), 20, seed=1)
    assert batch.observations.is_cuda
    assert all(torch.equal(a, b) for a, b in zip(before, torch.cuda.get_rng_state_all(), strict=True))


@pytest.mark.parametrize("algorithm", AGENTS.values())
def test_mitigations_run_on_the_gpu(algorithm, toy):
    mitigations = [EffectiveRank(1e-3), L2(1e-3)]
    algorithm("MlpPolicy", toy(), device="cuda", mitigations=mitigations, **SMALL[algorithm]).learn(64)
    assert all(mitigation.values() for mitigation in mitigations)


def test_effective_rank_is_the_same_on_the_gpu():
    features = torch.randn(50, 8, generator=torch.Generator().manual_seed(0)).relu()
    on_gpu = features.cuda().requires_grad_()
    on_cpu = features.clone().requires_grad_()
    torch.testing.assert_close(effective_rank(on_gpu).cpu(), effective_rank(on_cpu))
    (gpu,), (cpu,) = (torch.autograd.grad(effective_rank(f), f) for f in (on_gpu, on_cpu))
    torch.testing.assert_close(gpu.cpu(), cpu)
