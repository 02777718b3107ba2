"""
Denoise
=======

A photograph with Gaussian noise.
"""

# %%
print("x")
