"""CLIP encoders that several judges share; here their files, which need no framework."""

from evaluators.weights import PublishedWeights

#: Pixels that CLIPs take of an image, for which batch sizes are stated.
USUAL_INPUT = 224**2
CLIP_CODE = ("evaluators.clip.encoders", "evaluators.clip.open_clip_models")
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "vocab.json", "vocab.txt", "merges.txt",
    "special_tokens_map.json",
)  # fmt: skip
#: An image processor and a tokenizer in transformers' layout.
PROCESSOR_FILES = ("preprocessor_config.json", *TOKENIZER_FILES)
#: A CLIP on the hub, in transformers' layout or open_clip's.
CLIP_FILES = (
    "open_clip_config.json", "open_clip_model.safetensors", "open_clip_pytorch_model.safetensors",
    "config.json", "model.safetensors", *PROCESSOR_FILES,
)  # fmt: skip
CLIP_L = PublishedWeights(
    repo="openai/clip-vit-large-patch14", files=CLIP_FILES, disk_gb=1.71, memory_gb=1.71
)
