"""Language models: registry, health, prices, tokenizers, provider engines, secrets."""
