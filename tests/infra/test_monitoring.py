"""Alerts and panels ask for figures that the code tells, by labels that it gives; each is PromQL."""

import ast
import json
import re
from collections.abc import Callable, Iterator
from functools import cache

import promql_parser as promql
import pytest
import yaml
from manifests import INFRA, OVERLAYS, Manifests
from metrics import Metrics, assigned, installed, told

Build = Callable[[str], Manifests]
_SERVING = INFRA.parent / "serving"
_FROM_OUTSIDE = {"namespace"}  # labels that Prometheus adds


@cache
def _known() -> Metrics:
    found = told(_SERVING / "ray_meters.py", "ray_")
    gauges = INFRA.parent / "v2meow" / "train" / "ray_gauges.py"
    for _, row in assigned(gauges, "_OF").items():
        found[f"ray_v2meow_train_{ast.literal_eval(row)[0]}"] = {"stage", "run"}
    meters = _SERVING / "kserve_meters.py"
    found |= told(meters) | {name: {"stage"} for name in assigned(meters, "_GAUGES")}
    found |= told(installed("kserve", "metrics.py"))
    own = installed("ray", "serve", "_private", "deployment_state.py").read_text()
    assert '"serve_deployment_replica_healthy"' in own
    return found | {"ray_serve_deployment_replica_healthy": {"deployment", "application", "replica"}}


def _queries(build: Build) -> Iterator[tuple[str, str]]:
    """What is asked of Prometheus, with where it is asked."""
    for folder in OVERLAYS:
        for rules in build(folder).of("PrometheusRule"):
            for group in rules["spec"]["groups"]:
                yield from ((rule["alert"], rule["expr"]) for rule in group["rules"])
        for service in build(folder).of("InferenceService"):
            for metric in service["spec"]["predictor"].get("autoScaling", {}).get("metrics", []):
                yield "keda", metric["external"]["metric"]["query"]
    for panel in _dashboard(build)["panels"]:
        for target in panel["targets"]:
            query = target["expr"].replace("$__rate_interval", "5m").replace("$namespace", "v2meow")
            assert "$" not in query
            yield panel["title"], query


def _dashboard(build: Build) -> dict:
    (text,) = build("overlays/prod").one("ConfigMap", "v2meow-dashboard")["data"].values()
    return json.loads(text)


def _parts(expression: promql.Expr) -> Iterator[promql.Expr]:
    yield expression
    for name in ("lhs", "rhs", "expr", "vector_selector", "param"):
        inner = getattr(expression, name, None)
        if isinstance(inner, promql.Expr):
            yield from _parts(inner)
    for inner in getattr(expression, "args", None) or []:
        yield from _parts(inner)


def _faults(query: str) -> list[str]:
    """Figures that nobody tells, and labels that they do not have."""
    faults, known = [], _known()
    for part in _parts(promql.parse(query)):
        if isinstance(part, promql.VectorSelector):
            name, asked = part.name or "", {matcher.name for matcher in part.matchers.matchers}
            if name not in known:
                faults.append(f"nobody tells {name}")
            elif not asked <= known[name] | _FROM_OUTSIDE:
                faults.append(f"{name} has no {asked - known[name]}")
        elif isinstance(part, promql.AggregateExpr) and part.modifier:
            selectors = [one.name for one in _parts(part.expr) if isinstance(one, promql.VectorSelector)]
            for name in selectors:
                if missing := set(part.modifier.labels) - known.get(name or "", set()):
                    faults.append(f"{name} has no {missing}")
    return faults


def test_queries_ask_for_what_is_told(build: Build) -> None:
    """An alert on a figure that was renamed never fires, and says nothing about it."""
    queries = list(_queries(build))
    assert len(queries) > 25
    wrong = {place: faults for place, query in queries if (faults := _faults(query))}
    assert not wrong


@pytest.mark.parametrize(
    "query",
    [
        "sum(ray_v2meow_piecez)",
        "sum(ray_v2meow_codes)",  # without _total, which Ray adds
        'sum(ray_v2meow_pieces{stat="waiting"})',
        "sum by (stage) (ray_v2meow_pieces)",
        "histogram_quantile(0.95, sum by (le, version) (rate(ray_v2meow_first_audio_seconds_bucket[5m])))",
    ],
)
def test_a_slip_in_a_query_is_found(query: str) -> None:
    assert _faults(query)


def test_states_and_names_in_queries_are_those_of_the_code(build: Build) -> None:
    """Values of labels, which no parser knows."""
    meters = (_SERVING / "ray_meters.py").read_text()
    deployments = (_SERVING / "deployments.py").read_text()
    application = yaml.safe_load(build("overlays/prod").one("RayService")["spec"]["serveConfigV2"])["applications"][0]
    for place, query in _queries(build):
        for state in re.findall(r'state="([^"]*)"', query):
            assert f'"state": "{state}"' in meters, place
        for name in re.findall(r'deployment="([^"]*)"', query):
            assert f'@serve.deployment(name="{name}")' in deployments, place
        assert set(re.findall(r'application="([^"]*)"', query)) <= {application["name"]}, place


def test_what_askers_do_wrong_is_no_failure_of_ours(build: Build) -> None:
    problems = (_SERVING / "problems.py").read_text()
    (query,) = {query for place, query in _queries(build) if place == "V2MeowFailures"}
    (pattern,) = set(re.findall(r'kind!~"([^"]*)"', query))
    kinds = [kind for kind in re.findall(r'Problem\(\d+, "([a-z-]+)"', problems) if re.fullmatch(pattern, kind)]
    assert kinds == ["unusable-video", "unusable-prompt"]


def test_the_alerts_that_an_operator_needs_are_there(build: Build) -> None:
    alerts = {place for place, _ in _queries(build)}
    needed = {"FirstAudioSlow", "SlowerThanMusic", "Failures", "QueueLong", "RowsFull", "NoReplica"}
    assert {f"V2Meow{name}" for name in needed} <= alerts


def test_keda_looks_into_the_name_space_of_the_overlay(build: Build) -> None:
    overlay = build("overlays/prod-kserve")
    (query,) = [query for place, query in _queries(build) if place == "keda"]
    assert f'namespace="{overlay.one("Namespace")["metadata"]["name"]}"' in query


def test_the_dashboard_is_one(build: Build) -> None:
    """Panels have ids and places of their own, and only variables that are defined."""
    dashboard = _dashboard(build)
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len({(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}) == len(panels)
    defined = {variable["name"] for variable in dashboard["templating"]["list"]} | {"__rate_interval"}
    assert set(re.findall(r"\$\{?(\w+)", json.dumps(panels))) <= defined
    variable = next(one for one in dashboard["templating"]["list"] if one["name"] == "namespace")
    assert re.fullmatch(r"label_values\((\w+), namespace\)", variable["query"]["query"])
    config = build("overlays/prod").one("ConfigMap", "v2meow-dashboard")
    assert config["metadata"]["labels"]["grafana_dashboard"] == "1"
