"""A server of pictures that speaks OpenAI's format: ``stagevar serve``."""
