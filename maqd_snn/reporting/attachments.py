"""What other parts of the library may add to a report: others' numbers side by side, and a mapping to hardware.

`report["compare"]` is what `reporting.compare` returns.

`report["mapping"]` is optional plain values: {"title": text, "text": text, "facts": [[name, value], ...],
"tables": [{"caption": text, "columns": [text, ...], "rows": [[text, ...], ...]}, ...], "figures": [{"caption": text,
"media": "image/png" or "image/svg+xml", "data": base64 text}, ...]}; every part but the title may be missing.
"network" is the fingerprint of the network that was mapped. All texts are escaped; figures are shown as images, in
which nothing can run or be fetched.
"""

from typing import Any

from maqd_snn.reporting.activity import BASE64
from maqd_snn.reporting.wording import NO_VALUE, Values

MEDIA = ("image/png", "image/svg+xml")


def mapping_view(report: Values) -> dict[str, Any] | None:
    """Return the mapping section, or None where the report has none."""
    mapping = report.get("mapping")
    if not mapping:
        return None
    return {
        "title": str(mapping.get("title") or "Mapping"),
        "text": str(mapping.get("text") or ""),
        "facts": [(str(name), str(value)) for name, value in mapping.get("facts") or ()],
        "tables": [
            {
                "caption": str(table.get("caption") or ""),
                "columns": [str(name) for name in table["columns"]],
                "rows": [[str(cell) for cell in row] for row in table["rows"]],
            }
            for table in mapping.get("tables") or ()
        ],
        "figures": [
            {"caption": str(figure.get("caption") or ""), "src": f"data:{figure['media']};base64,{figure['data']}"}
            for figure in mapping.get("figures") or ()
            if figure.get("media") in MEDIA and BASE64.fullmatch(str(figure.get("data")))
        ],
    }


def compare_view(report: Values) -> dict[str, Any] | None:
    """Return the section that stands others' numbers beside ours, or None where nothing was compared."""
    compare = report.get("compare")
    if not compare:
        return None
    return {
        "samples": f"{compare['samples']:,}",
        "tools": [
            {
                "name": str(tool["name"]),
                "version": str(tool.get("version") or ""),
                "problem": str(tool.get("problem") or ""),
                "rows": [
                    {
                        "metric": str(row["metric"]),
                        "theirs": _value(row["theirs"]),
                        "ours": _value(row["ours"]),
                        "name": str(row.get("name") or ""),
                        "verdict": _verdict(row),
                        "mood": "even" if row["agrees"] is None else "good" if row["agrees"] else "bad",
                        "why": str(row["why"]),
                    }
                    for row in tool.get("rows") or ()
                ],
            }
            for tool in compare["tools"]
        ],
    }


def _verdict(row: Values) -> str:
    if row["agrees"] is None:
        return "another definition"
    return "equal" if row["agrees"] else "DIFFERS"


def _value(value: object) -> str:
    if value is None:
        return NO_VALUE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        if float(value).is_integer():
            return f"{value:,.0f}"
        return f"{value:,.1f}" if abs(value) >= 1000 else f"{value:.6g}"
    return str(value)
