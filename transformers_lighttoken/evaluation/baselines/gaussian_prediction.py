"""What a vector quantizer of few dimensions loses on a Gaussian against the limit; sizes are chosen by it."""

import math


def vector_quantizer_loss(width: int) -> float:
    """Error of the best fixed-rate quantizer of `width` dimensions over the Gaussian limit at the same high rate.

    2 pi G (1 + 2 / w)^(w / 2 + 1), with G = Gamma(w / 2 + 1)^(2 / w) / ((w + 2) pi) the second moment of a ball (Zador
    1982, cells taken as balls; Panter and Dite 1951 for w = 1). It falls from sqrt(3) pi / 2 for scalars to 1.

    Args:
        width: w, dimensions that are quantized together.
    """
    ball = math.exp(2 / width * math.lgamma(width / 2 + 1)) / ((width + 2) * math.pi)
    return 2 * math.pi * ball * (1 + 2 / width) ** (width / 2 + 1)
