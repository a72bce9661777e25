"""Names that `ling convert --help` lists; apart from their meaning, which takes torch to import."""

TO = (
    "bf16",
    "float32",
    "fp8",
    "int4",
    "int4_g32",
    "int8",
    "dcp",
    "megatron",
    "gguf",
)
MTP = ("extra-layer", "separate", "drop")
