"""What besides fine-tuning happens to a model before it is deployed: its weights stressed and given back."""
