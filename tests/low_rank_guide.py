"""A correlated guide as a user would write it, in a file of theirs: low rank plus diagonal, for every site."""

import pyro.distributions as dist
import torch
from pyro.nn import PyroParam

from pyro_vble.guides import Factor, MeanFieldGuide


class LowRank(Factor):
    def __init__(self, loc, std, rank):
        super().__init__()
        self.loc = PyroParam(loc.clone())
        self.variance = PyroParam(std.flatten(1).square(), dist.constraints.positive)
        self.factor = PyroParam(0.01 * torch.randn(*self.variance.shape, rank).to(loc))

    def forward(self):
        flat = dist.LowRankMultivariateNormal(self.loc.flatten(1), self.factor, self.variance)
        unflatten = dist.transforms.ReshapeTransform(self.loc[0].flatten().shape, self.loc.shape[1:])
        return dist.TransformedDistribution(flat, [unflatten])


class LowRankGuide(MeanFieldGuide):
    def __init__(self, model, y, *, rank=4):
        start = model.start(y)
        super().__init__(model, {site: LowRank(start[site].loc, start[site].std, rank) for site in start})
