"""Training: recipes, the loop, checkpoints, several processes."""

from maqd_snn.training.building import build_model
from maqd_snn.training.config import Recipe
from maqd_snn.training.execution import Execution
from maqd_snn.training.loop import Fit, fit
from maqd_snn.training.recipes import RECIPES, get_recipe
from maqd_snn.training.team import Team
from maqd_snn.training.watching import Epoch

__all__ = ["RECIPES", "Epoch", "Execution", "Fit", "Recipe", "Team", "build_model", "fit", "get_recipe"]
