"""The networks, the gradient reversal layer, the losses (Eq. 1 and Eq. 2), and files of weights."""
