"""One job: the one training loop, pretraining, fine-tuning and evaluation."""
