"""The Hub's rules for the front matter of a model card, as far as they are known."""

import re
from typing import Any

import yaml

# The Hub's own expression for the front matter, which huggingface_hub keeps in step with it.
FRONT_MATTER = re.compile(r"^(\s*---(?:\r\n|\r|\n))([\S\s]*?)((?:\r\n|\r|\n)---[ \t]*(\r\n|\n|$))")
LICENCES = set(
    """
    apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m
    afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5
    cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0
    cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0
    cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0
    lgpl lgpl-2.1 lgpl-3.0 isc h-research intel-research lppl-1.3c ms-pl apple-ascl apple-amlr mpl-2.0 odc-by odbl
    openmdw-1.0 openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl lgpl-lr deepfloyd-if-license
    fair-noncommercial-research-license llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 grok2-community gemma
    unknown other
    """.split()
)
RELATIONS = ("adapter", "merge", "quantized", "finetune")
TEXT = ("library_name", "pipeline_tag", "base_model_relation")
TEXT_OR_LIST = ("license", "language", "base_model", "datasets", "metrics")


class _StrictLoader(yaml.SafeLoader):
    """Refuses a mapping key that comes twice, as the Hub's parser does."""


def _mapping_without_duplicates(loader: _StrictLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [loader.construct_object(key, deep=True) for key, _ in node.value]
    for key in keys:
        if keys.count(key) > 1:
            raise yaml.constructor.ConstructorError(None, None, f"duplicated mapping key {key!r}", node.start_mark)
    return loader.construct_mapping(node, deep=True)


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping_without_duplicates)


def front_matter(content: str) -> dict[str, Any] | None:
    """The metadata of a card; None if it has none. Raises yaml.YAMLError if it is not YAML."""
    match = FRONT_MATTER.search(content)
    return yaml.load(match.group(2), Loader=_StrictLoader) if match else None


def check_card(content: str) -> tuple[list[str], list[str]]:
    """Errors and warnings that the Hub has about a card."""
    try:
        data = front_matter(content)
    except yaml.YAMLError as error:
        return [f"YAML Metadata Error: {error}"], []
    if data is None:
        return [], ["empty or missing yaml metadata in repo card"]
    if not isinstance(data, dict):
        return ["YAML Metadata Error: the metadata must be a mapping"], []
    errors = [f'"{key}" must be a string or an array of strings' for key in TEXT_OR_LIST if not _is_text(data, key)]
    errors += [f'"{key}" must be a string' for key in TEXT if not isinstance(data.get(key, ""), str)]
    if not isinstance(data.get("tags", []), list):
        errors.append('"tags" must be an array')
    licences = _as_list(data.get("license", []))
    if not all(isinstance(name, str) and name in LICENCES for name in licences):
        errors.append(f'"license" must be one of [{", ".join(sorted(LICENCES))}]')
    if str(data.get("base_model_relation", "finetune")) not in RELATIONS:
        errors.append(f'"base_model_relation" must be one of [{", ".join(RELATIONS)}]')
    return errors + _model_index_errors(data.get("model-index")), []


def _model_index_errors(index: Any) -> list[str]:
    if index is None:
        return []
    if not isinstance(index, list) or not all(isinstance(model, dict) for model in index):
        return ['"model-index" must be an array of models']
    errors = [f'"model-index[{i}].name" is required' for i, model in enumerate(index) if not model.get("name")]
    for i, model in enumerate(index):
        for j, result in enumerate(model.get("results", [])):
            place = f"model-index[{i}].results[{j}]"
            needed = (("task", "type"), ("dataset", "type"), ("dataset", "name"))
            errors += [f'"{place}.{part}.{key}" is required' for part, key in needed if not _has(result, part, key)]
            for k, metric in enumerate(result.get("metrics") or [{}]):
                missing = [key for key in ("type", "value") if metric.get(key) is None]
                errors += [f'"{place}.metrics[{k}].{key}" is required' for key in missing]
            if "source" in result and not _has(result, "source", "url"):
                errors.append(f'"{place}.source.url" is required')
    return errors


def _has(result: dict[str, Any], part: str, key: str) -> bool:
    return bool((result.get(part) or {}).get(key))


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _is_text(data: dict[str, Any], key: str) -> bool:
    return all(isinstance(item, str) for item in _as_list(data.get(key, "")))
