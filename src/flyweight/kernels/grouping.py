"""How inputs are grouped when they are quantized to 8 bits at run time: one rule for the kernels and their twins."""

SMALLEST, USUAL, LARGEST = 32, 128, 256


def activation_group(in_features: int, group_size: int) -> int:
    """How many inputs share a scale when compute is ``int8``, for a weight with ``group_size`` inputs per scale.

    Groups of inputs restart with every group of the weight, or span several whole ones:

    * 32 <= group_size <= 256: the weight's own groups.
    * group_size < 32: as many whole groups of the weight as fit in 128 inputs (the last may hold fewer).
    * group_size > 256 (such as one scale per channel): the multiple of 8 nearest to 128, between 32 and 256, that
      divides group_size; where none does, 128, and the last group is shorter.

    >>> activation_group(4096, 64), activation_group(4096, 16), activation_group(4864, 4864), activation_group(576, 576)
    (64, 128, 128, 144)
    """
    if group_size < SMALLEST:
        return min(in_features, group_size * (USUAL // group_size))
    if group_size <= LARGEST:
        return group_size
    divisors = [size for size in range(SMALLEST, LARGEST + 1, 8) if group_size % size == 0]
    return min(divisors, key=lambda size: (abs(size - USUAL), size), default=USUAL)
