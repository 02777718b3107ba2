"""The posterior that the cells of a scene begin with: what is known of it before anything is fitted."""

import math

import torch

from pyro_vble.inference import Problem
from pyro_vble.models import CAE
from pyro_vble.samples import Posterior
from pyro_vble.scene.job import Job


def unfitted_posterior(job: Job, prior: CAE, rate_scale: float) -> Posterior:
    """The posterior of a grey image, the smallest that the operator takes, as ``restore`` begins with it.

    Its :attr:`~pyro_vble.samples.Posterior.made_with` is that of every image with this prior, guide and operator,
    whatever its size. The prior is told by its own name, not by that of its copy in the scene's store.

    Args:
        job: The scene.
        prior: The prior.
        rate_scale: s.
    """
    unit = math.lcm(prior.stride, job.operator.ratio)
    side = -(-(2 * job.margin + 1) // unit) * unit
    shape = job.bands, side, side
    y = torch.full((1, job.bands, side // job.operator.ratio, side // job.operator.ratio), 0.5)
    prior = prior if rate_scale == 1 else prior.with_rate_scale(rate_scale)
    problem = Problem.on("cpu", y, job.operator.physics(shape), prior, job.guide, image_shape=shape)
    with torch.random.fork_rng(devices=[]):
        model, guide = problem.build()
    return Posterior(model, guide, y)
