"""The search of the paper's hyper-parameters by Optuna."""
