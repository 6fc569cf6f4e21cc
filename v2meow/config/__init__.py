"""The recipe: every choice of a run as frozen, typed, inert values.

Derived rates, lengths and vocabulary sizes are properties here, so that no two files compute them differently. No
torch, no I/O beyond reading the file.
"""

from v2meow.config.encoders import (
    ClapConfig,
    ClipConfig,
    CodecConfig,
    EncodecConfig,
    FlowConfig,
    JointConfig,
    LappedCodecConfig,
    MelIdsConfig,
    MotionConfig,
    PretrainedIdsConfig,
    SemanticIdsConfig,
    TwoTowerConfig,
    VisualConfig,
    VisualTokensConfig,
)
from v2meow.config.reading import RecipeError, builtin_recipes, load_recipe, parse_recipe, recipe_path
from v2meow.config.recipe import (
    ChecksConfig,
    CriterionConfig,
    DataConfig,
    EvaluateConfig,
    ExtractConfig,
    MediaConfig,
    PromotionConfig,
    Recipe,
    RetrainConfig,
    Strategy,
    TrainConfig,
)
from v2meow.config.stages import (
    STAGES,
    GenerateConfig,
    SamplingConfig,
    StageConfig,
    StageName,
    StagesConfig,
)

__all__ = [
    "STAGES",
    "ChecksConfig",
    "ClapConfig",
    "ClipConfig",
    "CodecConfig",
    "CriterionConfig",
    "DataConfig",
    "EncodecConfig",
    "EvaluateConfig",
    "ExtractConfig",
    "FlowConfig",
    "GenerateConfig",
    "JointConfig",
    "LappedCodecConfig",
    "MediaConfig",
    "MelIdsConfig",
    "MotionConfig",
    "PretrainedIdsConfig",
    "PromotionConfig",
    "Recipe",
    "RecipeError",
    "RetrainConfig",
    "SamplingConfig",
    "SemanticIdsConfig",
    "StageConfig",
    "StageName",
    "StagesConfig",
    "Strategy",
    "TrainConfig",
    "TwoTowerConfig",
    "VisualConfig",
    "VisualTokensConfig",
    "builtin_recipes",
    "load_recipe",
    "parse_recipe",
    "recipe_path",
]
