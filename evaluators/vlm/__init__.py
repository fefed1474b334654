"""Judges that ask a vision-language model; here its files, which need no framework."""

from evaluators.weights import PublishedWeights

#: A model with its processor in transformers' layout.
VLM_FILES = ("*.json", "*.safetensors", "*.jinja", "merges.txt")
#: What describes the model that HPSv3 tuned, without its own weights.
HPSV3_BASE_FILES = (
    "config.json", "preprocessor_config.json", "video_preprocessor_config.json",
    "tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "chat_template.*",
)  # fmt: skip
#: What GenEval 2 asks, and VQAScore can.
QWEN3_VL = PublishedWeights(
    # 8.77e9 parameters, stored in two bytes each.
    repo="Qwen/Qwen3-VL-8B-Instruct",
    files=VLM_FILES,
    disk_gb=17.5,
    memory_gb=35.1,
)
