"""Backpropagation through time: the loss over a batch, and its derivatives by all that a network has and was given.

    L = Σ_t L(t)        δ(t) = ∂L/∂h(t) = (what L(t) and the layers above say) + (what came back through step t + 1)

Every cell's step back stands beside its step forward (`steps.py`); the chain of steps is `layers.backpropagate`.
Gradients are for looking at: there is no optimizer here, and nothing that changes a network's weights. To train one,
use the framework it comes from. Source: Goodfellow, Bengio & Courville, Deep Learning, 10.2.2; Werbos (1990).
"""

from rnn_engine.gradients.backward import Backward, backward, footprint
from rnn_engine.gradients.diagnostics import Diagnosis, diagnose
from rnn_engine.gradients.loss import LOSSES, check_shape, loss_of

__all__ = ["LOSSES", "Backward", "Diagnosis", "backward", "check_shape", "diagnose", "footprint", "loss_of"]
