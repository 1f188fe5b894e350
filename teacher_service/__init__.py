"""The teacher service: foundation models behind TorchServe, answering prompts with soft labels."""
