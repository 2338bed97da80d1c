"""What a team does to its model after editing: objectives, weight updates, freezing and the training run."""
