import pytest
import torch
from torch import nn

from llama_omni.errors import ConfigError
from llama_omni.train.learner import Learner
from llama_omni.train.muon import Muon, orthogonal
from llama_omni.train.processes import set_up
from llama_omni.train.settings import TrainSettings
from tests.train.runs import Line


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 4, 16), (2, 16, 4)])
def test_orthogonal_brings_singular_values_near_one(shape):
    torch.manual_seed(0)
    matrices = torch.randn(shape)
    values = torch.linalg.svdvals(orthogonal(matrices))
    assert values.min() > 0.3
    assert values.max() < 1.3


def test_orthogonal_treats_matrices_apart():
    torch.manual_seed(0)
    matrices = torch.randn(3, 6, 10)
    alone = orthogonal(matrices[1:2] * 100)
    torch.testing.assert_close(orthogonal(matrices)[1:2], alone, atol=1e-5, rtol=1e-4)


def test_other_parameters_go_as_by_adamw():
    torch.manual_seed(0)
    start = torch.randn(5, 3)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    muon = Muon([], [ours], lr=0.01, betas=(0.9, 0.99))
    adamw = torch.optim.AdamW([theirs], lr=0.01, betas=(0.9, 0.99), weight_decay=0.0)
    for _ in range(5):
        gradient = torch.randn(5, 3)
        for parameter, optimizer in ((ours, muon), (theirs, adamw)):
            parameter.grad = gradient.clone()
            optimizer.step()
    torch.testing.assert_close(ours, theirs)


def test_matrix_update_has_the_size_of_adamws():
    torch.manual_seed(0)
    matrix = nn.Parameter(torch.zeros(32, 64))
    matrix.grad = torch.randn(32, 64)
    Muon([matrix], [], lr=0.01).step()
    assert 0.1 * 0.01 < matrix.square().mean().sqrt() < 0.4 * 0.01


def test_matrices_of_layers_alone_are_muons():
    model = nn.ModuleDict(
        {
            "embed": nn.Embedding(4, 8),
            "layers": nn.ModuleList([nn.Linear(8, 8), nn.LayerNorm(8)]),
            "head": nn.Linear(8, 4),
        }
    )
    chosen = Muon.of_layers(dict(model.named_parameters()), TrainSettings(optimizer="muon"))
    (matrix,) = chosen.param_groups[0]["params"]
    assert matrix is model["layers"][0].weight
    assert sum(len(group["params"]) for group in chosen.param_groups) == 7


def test_state_goes_on_from_its_dictionary():
    def run(pause):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Sequential(nn.Linear(4, 4)))
        made = Muon.of_layers(dict(model.named_parameters()), TrainSettings(optimizer="muon"))
        for step in range(4):
            if step == pause:
                state = made.state_dict()
                made = Muon.of_layers(dict(model.named_parameters()), TrainSettings())
                made.load_state_dict(state)
            model(torch.ones(2, 4)).square().sum().backward()
            made.step()
            made.zero_grad()
        return model[0][0].weight

    assert torch.equal(run(pause=2), run(pause=-1))


def test_sharded_muon_is_refused():
    with pytest.raises(ConfigError, match="sharding must be none with optimizer=muon"):
        TrainSettings(optimizer="muon", sharding="fsdp")


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_a_run_steps_by_the_optimizer_that_it_is_told(name):
    learner = Learner(Line(), TrainSettings(optimizer=name), set_up("cpu"))
    assert isinstance(learner._optimizer, Muon) == (name == "muon")
