import pytest
import torch

from llama_omni.engine.sampling import sample


def draw(logits, *, temperature=1.0, top_p=1.0, seed=0, position=0):
    B = len(logits)
    return sample(
        logits,
        temperature=torch.full((B,), float(temperature)),
        top_p=torch.full((B,), float(top_p)),
        seed=torch.as_tensor(seed).expand(B),
        position=torch.as_tensor(position).expand(B),
    )


def test_temperature_zero_is_greedy():
    logits = torch.randn(8, 50)
    assert torch.equal(draw(logits, temperature=0), logits.argmax(-1))


def test_frequencies_follow_the_distribution():
    probabilities = torch.tensor([0.5, 0.3, 0.15, 0.05])
    n = 20_000
    drawn = draw(probabilities.log().expand(n, -1), seed=torch.arange(n), position=3)
    found = torch.bincount(drawn, minlength=4) / n
    assert found.tolist() == pytest.approx(probabilities.tolist(), abs=0.015)


def test_temperature_flattens():
    logits = torch.tensor([[2.0, 0.0]]).expand(5000, -1)
    seeds = torch.arange(5000)
    expected = torch.tensor([2.0, 0.0]).div(4.0).softmax(-1)[0]
    found = (draw(logits, temperature=4.0, seed=seeds) == 0).float().mean()
    assert found.item() == pytest.approx(expected.item(), abs=0.03)


def test_top_p_keeps_the_smallest_sufficient_set():
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log().expand(3000, -1)
    seeds = torch.arange(3000)
    assert draw(logits, top_p=0.6, seed=seeds).unique().tolist() == [0, 1]
    assert draw(logits, top_p=0.5, seed=seeds).unique().tolist() == [0]
    assert draw(logits, top_p=1.0, seed=seeds).unique().tolist() == [0, 1, 2, 3]


def test_noise_belongs_to_seed_and_position_not_to_the_batch():
    logits = torch.randn(6, 100)
    seed, position = torch.arange(6) * 1_000_003, torch.tensor([0, 5, 5, 9, 2, 0])
    together = draw(logits, seed=seed, position=position)
    for i in range(6):
        alone = draw(logits[i : i + 1], seed=seed[i], position=position[i])
        assert alone.item() == together[i].item()


@pytest.mark.parametrize("seed", [-1, 2**40 + 7, 2**62])
def test_any_64_bit_seed_works(seed):
    logits = torch.zeros(1, 1000)
    tokens = {draw(logits, seed=seed, position=i).item() for i in range(50)}
    assert len(tokens) > 40
