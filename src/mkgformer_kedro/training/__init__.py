"""How a model learns: prompts, batches, the Trainer, scoring and launching."""
