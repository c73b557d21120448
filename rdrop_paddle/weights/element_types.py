"""Raw bytes as arrays of numbers."""

import numpy as np


def array_of(content, kind):
    """The numbers in `content`, little-endian, of a numpy kind such as f4, or bf16, which becomes float32."""
    return bfloat16(np.frombuffer(content, "<u2")) if kind == "bf16" else np.frombuffer(content, f"<{kind}")


def bfloat16(bits):
    """uint16 bit patterns of bfloat16 as float32: they are its upper half."""
    return (bits.astype("<u4") << 16).view("<f4")


def width(kind):
    """Bytes of a number."""
    return 2 if kind == "bf16" else np.dtype(kind).itemsize
