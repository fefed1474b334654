"""The methods: SFT, SOAR and Flow-GRPO under one training loop."""
