"""Fits a line by gradient descent with momentum."""

import os
import sys

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp

from ckptfs.integrations.orbax import Checkpointer
from tests.integrations.programs.dying import Progress, report

STEPS = 20
progress = Progress()
inputs = jax.random.normal(jax.random.key(7), (64, 8))
targets = inputs @ jnp.arange(8.0)


@jax.jit
def update(state):
    loss, slope = jax.value_and_grad(lambda w: jnp.mean((inputs @ w - targets) ** 2))(state["weights"])
    momentum = 0.9 * state["momentum"] + slope
    return {"weights": state["weights"] - 0.01 * momentum, "momentum": momentum}, loss


state = {"weights": jnp.zeros(8), "momentum": jnp.zeros(8)}
training = Checkpointer(sys.argv[1], every=3)
began, state = training.restore(state)
loss = 0.0
for step in range(began + 1, STEPS + 1):
    state, loss = update(state)
    progress.reached(step)
    training.stepped(step, state, loss=loss)
training.save(STEPS, state, loss=loss)
report(began, STEPS, loss)
