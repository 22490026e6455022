"""How a program computes attention and updates its cache, by name."""

#: By ATen's operators, which every runtime has, or by ExecuTorch's own, which an app has to link in.
ATTENTIONS = PORTABLE, CUSTOM = "portable", "custom"
