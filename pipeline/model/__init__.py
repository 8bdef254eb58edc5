"""The networks, the gradient reversal layer, Eq. 1 and Eq. 2, and the files that weights are kept in."""
