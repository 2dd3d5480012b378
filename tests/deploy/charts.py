"""Helm charts as helm renders them, without helm: gotpl's engine with Helm's functions."""

import copy
import pathlib
from typing import Any

import gotpl
import jsonschema
import yaml
from gotpl.exts import helm

ENGINE = gotpl.Environment(extensions=[helm.HelmExtension()])
RELEASE = {"Name": "web", "Namespace": "tools"}


def render(chart: pathlib.Path, values: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    """The objects; values are merged one level deep over the chart's own, and checked against its schema."""
    whole = copy.deepcopy(yaml.safe_load((chart / "values.yaml").read_text()))
    for key, value in (values or {}).items():
        whole[key] = {**whole[key], **value} if isinstance(value, dict) else value
    jsonschema.validate(whole, yaml.safe_load((chart / "values.schema.json").read_text()))
    about = yaml.safe_load((chart / "Chart.yaml").read_text())
    given = {"Values": whole, "Release": RELEASE, "Chart": {"AppVersion": str(about["appVersion"])}}
    documents: list[dict[str, Any]] = []
    for file in sorted((chart / "templates").glob("*.yaml")):
        documents += yaml.safe_load_all(ENGINE.from_string(file.read_text()).render(given))
    return [document for document in documents if document]
