"""One training run in several processes, each of which holds a share of its weights and optimiser's state.

The process of the step stays in charge. It has the model, probes it, and decides after every optimiser step
what comes next; its ranks train, and gather the weights for it where it asks for them.
"""
