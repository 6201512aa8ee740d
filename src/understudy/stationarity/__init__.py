"""Hyper-parameters out of a model and the data it was trained on: training ends where the gradient vanishes.

There, loss gradient b and regulariser's gradients A (one column each) satisfy b + A lambda = 0, as many equations as
there are weights. So whoever solved the weights, and has the training set, also has what the owner searched for.

Source: Wang and Gong, IEEE S&P 2018 (arXiv 1802.05351), sections 3 and 4.
"""

from understudy.stationarity.solve import OBJECTIVES, Hyperparameters, hyperparameters

__all__ = ["OBJECTIVES", "Hyperparameters", "hyperparameters"]
