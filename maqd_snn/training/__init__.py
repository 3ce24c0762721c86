"""Training: recipes, the loop, checkpoints."""

from maqd_snn.training.config import Recipe
from maqd_snn.training.loop import Epoch, Fit, build_model, fit
from maqd_snn.training.recipes import RECIPES, get_recipe

__all__ = ["RECIPES", "Epoch", "Fit", "Recipe", "build_model", "fit", "get_recipe"]
