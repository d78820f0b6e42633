"""Quality of a model as it is, without fine-tuning."""

from .language_modeling import PerplexityResult, perplexity, pseudo_perplexity
from .similarity import SimilarityResult, sts_spearman

__all__ = ["PerplexityResult", "SimilarityResult", "perplexity", "pseudo_perplexity", "sts_spearman"]
