"""Values of a recipe that cannot work together: found before anything runs."""

from collections.abc import Iterator

from v2meow.config.encoders import (
    EncodecConfig,
    FlowConfig,
    MotionConfig,
    PretrainedIdsConfig,
    TwoTowerConfig,
    VisualTokensConfig,
)
from v2meow.config.recipe import Recipe
from v2meow.config.stages import STAGES, StageConfig, StageName

Rule = tuple[bool, str, str]  # whether it holds, the key it is about, what is asked of the key


def inconsistencies(recipe: Recipe) -> list[tuple[str, str]]:
    """Keys whose values cannot work together, with what is asked of them."""
    broken = [(key, message) for holds, key, message in _divisor_rules(recipe) if not holds]
    if broken:  # the other rules divide by these
        return broken
    rules = (
        *_data_rules(recipe),
        *_check_rules(recipe),
        *_encoder_rules(recipe),
        *_extract_rules(recipe),
        *_stage_rules(recipe),
        *_worker_rules(recipe),
        *_gate_rules(recipe),
        *_orchestration_rules(recipe),
    )
    return [(key, message) for holds, key, message in rules if not holds]


def _divisor_rules(recipe: Recipe) -> Iterator[Rule]:
    codec, ids = recipe.codec, recipe.semantic_ids
    divisors = {"codec.sample_rate": codec.sample_rate, "codec.hop": codec.hop, "semantic_ids.rate": ids.rate}
    divisors |= {f"stages.{name}.heads": recipe.stage(name).heads for name in STAGES}
    for key, value in divisors.items():
        yield value > 0, key, "must be positive"


def _data_rules(recipe: Recipe) -> Iterator[Rule]:
    data, rate = recipe.data, recipe.semantic_ids.rate
    yield data.clip_seconds > 0, "data.clip_seconds", "must be positive"
    whole = round(data.clip_seconds * rate, 6).is_integer()
    yield whole, "data.clip_seconds", f"must be a whole number of semantic ids, of 1/{rate} s each"
    yield 0 < data.hop_seconds <= data.clip_seconds, "data.hop_seconds", "must be above 0 and at most clip_seconds"
    yield 0 < data.holdout < 1, "data.holdout", "must lie between 0 and 1"
    yield 0 <= data.scene_threshold <= 255, "data.scene_threshold", "must lie between 0 and 255"
    spelt = "://" not in data.source or data.source.startswith("s3://")
    yield spelt, "data.source", "must be a folder or s3://bucket/prefix"


def _check_rules(recipe: Recipe) -> Iterator[Rule]:
    checks = recipe.checks
    for key, value in vars(checks).items():
        share = key not in ("min_clips", "min_holdout_videos", "min_clip_lufs")
        yield not share or 0 <= value <= 1, f"checks.{key}", "must lie between 0 and 1"


def _encoder_rules(recipe: Recipe) -> Iterator[Rule]:
    yield from _codec_rules(recipe)
    rate, ids = recipe.codec.sample_rate, recipe.semantic_ids
    yield rate % ids.rate == 0, "semantic_ids.rate", f"must divide codec.sample_rate {rate}"
    yield recipe.codec.rate % ids.rate == 0, "semantic_ids.rate", f"must divide the codec's {recipe.codec.rate} Hz"
    yield ids.clusters > 1, "semantic_ids.clusters", "must be at least 2"
    enough = ids.sample_frames >= ids.clusters
    yield enough, "semantic_ids.sample_frames", f"must be at least the {ids.clusters} clusters"
    if isinstance(ids, PretrainedIdsConfig):
        yield ids.layer > 0, "semantic_ids.layer", "counts from 1"
    yield from _joint_rules(recipe)
    yield from _visual_rules(recipe)


def _joint_rules(recipe: Recipe) -> Iterator[Rule]:
    joint = recipe.joint
    if isinstance(joint, TwoTowerConfig):
        yield joint.text_buckets > 1, "joint.text_buckets", "must be at least 2"
        yield joint.batch > 1, "joint.batch", "must be at least 2: a pair is told from the others"
        yield min(joint.width, joint.steps) > 0, "joint", "width and steps must be positive"
    else:
        yield joint.batch > 0, "joint.batch", "must be positive"


def _visual_rules(recipe: Recipe) -> Iterator[Rule]:
    yield len(recipe.visual) > 0, "visual", "at least one extractor is needed"
    kinds = [extractor.kind for extractor in recipe.visual]
    for i, extractor in enumerate(recipe.visual):
        key = f"visual[{i}]"
        yield extractor.kind not in kinds[:i], f"{key}.kind", f"{extractor.kind} is named twice"
        yield extractor.rate > 0, f"{key}.rate", "must be positive"
        whole = round(recipe.data.clip_seconds * extractor.rate, 6).is_integer()
        yield whole, f"{key}.rate", f"must give a clip of {recipe.data.clip_seconds:g} s a whole number of rows"
        yield extractor.size > 0, f"{key}.size", "must be positive"
        if not isinstance(extractor, MotionConfig):
            yield extractor.batch > 0, f"{key}.batch", "must be positive"
        if isinstance(extractor, VisualTokensConfig):
            yield extractor.grid > 0, f"{key}.grid", "must be positive"
        if isinstance(extractor, FlowConfig):
            yield from _flow_rules(extractor, key)


def _flow_rules(flow: FlowConfig, key: str) -> Iterator[Rule]:
    multiple = flow.rate > 0 and flow.frame_rate > 0 and round(flow.frame_rate / flow.rate, 6).is_integer()
    yield multiple, f"{key}.frame_rate", f"must be a multiple of rate, {flow.rate:g}"
    yield flow.window_frames >= 8, f"{key}.window_frames", "must be at least 8, what the network takes together"


def _codec_rules(recipe: Recipe) -> Iterator[Rule]:
    codec = recipe.codec
    if isinstance(codec, EncodecConfig):
        yield codec.levels > 0, "codec.bandwidth", f"must be at least {codec.rate / 100:g} kbit/s, one codebook"
        return
    yield codec.sample_rate % codec.hop == 0, "codec.hop", f"must divide the sample rate {codec.sample_rate}"
    yield 0 < codec.companding <= 1, "codec.companding", "must be above 0 and at most 1"
    yield codec.bins > 1 and codec.bins & (codec.bins - 1) == 0, "codec.bins", "must be a power of two"
    yield codec.beam > 0, "codec.beam", "must be positive"
    yield codec.adversarial_weight >= 0, "codec.adversarial_weight", "must be at least 0"
    filters = codec.discriminator_filters > 0 or codec.adversarial_weight == 0
    yield filters, "codec.discriminator_filters", "must be positive"
    judged = codec.segment_seconds * codec.sample_rate - codec.hop >= 2048 or codec.adversarial_weight == 0
    yield judged, "codec.segment_seconds", "must be longer than the discriminator's window of 2048 samples"


def _extract_rules(recipe: Recipe) -> Iterator[Rule]:
    extract = recipe.extract
    for name in ("batch", "shard_clips", "workers"):
        yield getattr(extract, name) > 0, f"extract.{name}", "must be positive"
    yield 0 <= extract.gpus <= 1, "extract.gpus", "is a share of one GPU"


def _stage_rules(recipe: Recipe) -> Iterator[Rule]:
    levels, clip = recipe.codec.levels, recipe.data.clip_seconds
    kept = 0 < recipe.stages.coarse_levels < levels
    yield kept, "stages.coarse_levels", f"must lie between 0 and codec.levels ({levels})"
    for name in STAGES:
        stage, sampling, key = recipe.stage(name), recipe.sampling(name), f"stages.{name}"
        yield stage.width % stage.heads == 0, f"{key}.width", f"{stage.width} is not divisible by {stage.heads} heads"
        even = (stage.width // stage.heads) % 2 == 0
        yield even, f"{key}.heads", "the width of a head must be even for rotary positions"
        fits = 0 < stage.window_seconds <= clip
        yield fits, f"{key}.window_seconds", "must be above 0 and at most data.clip_seconds"
        positive = min(stage.layers, stage.steps, stage.batch, stage.max_epochs) > 0
        yield positive, key, "layers, steps, max_epochs and batch must be positive"
        drops = (stage.dropout, stage.drop_video, stage.drop_text)
        yield min(drops) >= 0 and max(drops) <= 1, key, "dropout, drop_video and drop_text are shares of 1"
        yield from _training_rules(stage, key)
        yield sampling.temperature > 0, f"generate.{name}.temperature", "must be positive"
        yield 0 < sampling.top_p <= 1, f"generate.{name}.top_p", "must be above 0 and at most 1"
        yield from _layout_rules(recipe, name)
    window = min(recipe.stages.semantic.window_seconds, recipe.stages.coarse.window_seconds)
    carried = 0 <= recipe.generate.context_seconds < window
    yield carried, "generate.context_seconds", f"must be less than a window of these stages, {window:g} s"


def _training_rules(stage: StageConfig, key: str) -> Iterator[Rule]:
    parts = stage.accumulate > 0 and stage.batch % stage.accumulate == 0
    yield parts, f"{key}.accumulate", f"must divide the batch of {stage.batch}"
    yield 0 <= stage.ema < 1, f"{key}.ema", "must be at least 0 and below 1"
    yield stage.checkpoint_steps > 0, f"{key}.checkpoint_steps", "must be positive"
    yield stage.evaluate_steps >= 0, f"{key}.evaluate_steps", "must be at least 0"
    told = stage.evaluate_steps > 0 or not stage.keep_best
    yield told, f"{key}.keep_best", "needs evaluate_steps above 0: nobody knows else which one is the best"


def _worker_rules(recipe: Recipe) -> Iterator[Rule]:
    train = recipe.train
    yield 0 < train.min_workers <= train.workers, "train.min_workers", f"must be 1 to train.workers, {train.workers}"
    yield train.cpus > 0, "train.cpus", "must be positive"
    yield train.gpus in (0, 1), "train.gpus", "is 1, or 0 to train on processors"
    known = not train.storage or train.storage.startswith(("/", "s3://"))
    yield known, "train.storage", 'must be an absolute path, an s3:// address, or "" for the workspace'
    yield train.max_failures >= 0, "train.max_failures", "must be at least 0"
    yield train.keep > 0, "train.keep", "must be positive"
    factor = train.spike_factor == 0 or train.spike_factor > 1
    yield factor, "train.spike_factor", "must be above 1, or 0 for spikes that are no number only"
    for name in STAGES:
        enough = recipe.stage(name).batch >= train.workers
        yield enough, f"stages.{name}.batch", f"must be at least train.workers, {train.workers}"


def _layout_rules(recipe: Recipe, name: StageName) -> Iterator[Rule]:
    kc = recipe.stages.coarse_levels
    levels = {"semantic": 1, "coarse": kc, "fine": recipe.codec.levels - kc}[name]
    passes, parallel = recipe.sampling(name).passes, recipe.stage(name).layout == "parallel"
    yield not (parallel and name == "semantic"), f"stages.{name}.layout", "semantic ids are decoded step by step"
    enough = passes >= levels if parallel else passes == 0
    message = f"must be at least {levels}, one a level" if parallel else "is for stages of layout parallel only"
    yield enough, f"generate.{name}.passes", message


def _gate_rules(recipe: Recipe) -> Iterator[Rule]:
    for i, criterion in enumerate(recipe.gate):
        key, beside = f"gate[{i}]", criterion.not_worse_than_production
        asked = [criterion.at_least is not None, criterion.at_most is not None, beside]
        yield sum(asked) == 1, key, "give exactly one of at_least, at_most and not_worse_than_production"
        yield criterion.tolerance >= 0, f"{key}.tolerance", "must be at least 0"
        needed = beside or criterion.tolerance == 0
        yield needed, f"{key}.tolerance", "is for not_worse_than_production; a limit has its own"
        yield criterion.min_samples >= 0, f"{key}.min_samples", "must be at least 0"


def _orchestration_rules(recipe: Recipe) -> Iterator[Rule]:
    retrain, promotion = recipe.retrain, recipe.promotion
    yield retrain.cron == "" or len(retrain.cron.split()) == 5, "retrain.cron", "has five fields, such as 0 3 * * *"
    for name in ("poll_minutes", "min_new_hours", "max_cpu_hours", "max_gpu_hours"):
        yield getattr(retrain, name) >= 0, f"retrain.{name}", "must be at least 0"
    yield retrain.side_by_side > 0, "retrain.side_by_side", "must be at least 1"
    web = promotion.endpoint == "" or promotion.endpoint.startswith(("http://", "https://"))
    yield web, "promotion.endpoint", "must be an address of a service, http:// or https://"
    for name in ("seconds", "probes", "max_slowdown", "approval_hours"):
        yield getattr(promotion, name) > 0, f"promotion.{name}", "must be positive"
    for name in ("watches", "watch_minutes"):
        yield getattr(promotion, name) >= 0, f"promotion.{name}", "must be at least 0"
    for name in ("max_error_share", "max_clipped_share"):
        yield 0 <= getattr(promotion, name) <= 1, f"promotion.{name}", "is a share of 1"
