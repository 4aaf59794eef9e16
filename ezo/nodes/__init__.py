"""Node perturbation: noise on the outputs of linear layers, an experiment for every example.

Weights that are perturbed turn a batch into one number. With noise n_i of its own on each example's
outputs (Werfel, Xie and Seung 2003), +sigma n_i in one pass and -sigma n_i in the other, the losses
of the examples are as many numbers:

    d_i  = clip((loss+_i - loss-_i) / 2, +-clip sigma)
    e_i  = (d_i / sigma) n_i on_i
    D    = mean_i e_i (x_i - xbar)'
    W   <- W - lr D
    b   <- b - lr (mean_i e_i - D xbar)

x_i is the layer's input in the step's last pass, xbar its mean over the batch, and on_i says which
units are on there, where a ReLU follows (else all). In the mean over the noise e_i is the loss's
gradient at the outputs, and D that of W in the coordinates y = W (x - xbar) + c: grad_W - grad_b
xbar'. A layer without a bias learns from x_i as it is.

Nothing is moved, so there is nothing to undo. Noise is drawn again for the update; inputs are kept
from the last pass to the update, when the large activations are gone. Outputs of more than two
dimensions, (N, ..., U), get noise for each position, which share the example's difference.

Where the maximum of a layer's outputs over points is all that counts, noise is the same for all
points of an example, which is noise on the maximum, and x_i is the input of the point that won.
A module says so of its submodules: ``BEFORE_MAXIMUM``, a tuple of names.

Index letters: N example, i example, P point, U output, K input.
"""

from ezo.nodes.feedback import Feedback
from ezo.nodes.layers import Nodes
from ezo.nodes.perturbation import STREAM, NodePerturbation, NodeUpdate

__all__ = ["STREAM", "Feedback", "NodePerturbation", "NodeUpdate", "Nodes"]
