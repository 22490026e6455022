"""How a program computes attention and updates its cache, by name."""

#: By ATen's operators, which every runtime has, or by ExecuTorch's own, which an app has to link in.
ATTENTIONS = PORTABLE, CUSTOM = "portable", "custom"
#: Those of ExecuTorch, as partition reports name them. They read caches, and no backend delegates them.
CUSTOM_OPERATORS = ("llama.custom_sdpa.default", "llama.update_cache.default")
