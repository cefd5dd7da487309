"""How a model learns: prompts, batches, the Trainer and scoring."""
