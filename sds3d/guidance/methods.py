"""The table of distillation methods: each is data. Imports no torch, so that the command line can print it.

A new method that is linear is a configuration class and a row in one file of `sds3d.guidance.table`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Union

from pydantic import Field

from sds3d.guidance.config import GuidanceConfig
from sds3d.guidance.method import Method
from sds3d.guidance.table import direct, editing, paths, trained
from sds3d.guidance.table.direct import MvdreamReconConfig, SdsConfig

__all__ = ["METHODS", "AnyGuidance", "Method", "MvdreamReconConfig", "SdsConfig", "markdown_table", "table_rows"]

METHODS: dict[str, Method] = {**direct.ROWS, **trained.ROWS, **paths.ROWS, **editing.ROWS}

if TYPE_CHECKING:
    AnyGuidance = GuidanceConfig
else:
    AnyGuidance = Annotated[Union[tuple(row.config for row in METHODS.values())], Field(discriminator="method")]  # noqa: UP007
    """Field type of a recipe's `guidance:` block: the configuration of any row, chosen by the key `method`."""


def table_rows() -> list[dict[str, Any]]:
    """Return the table as plain data, one dictionary a method, for the command line and the documentation."""
    return [
        {
            "method": name,
            "name": row.title,
            "residual": row.formula,
            "branches": ", ".join(str(branch) for branch in row.rule(row.defaults()).needs),
            "weight": row.config.model_fields["weight"].default,
            "evaluations": row.cost,
            "needs": ", ".join(sorted(row.needs)),
            "paper": f"{row.paper} (arXiv {row.arxiv})",
            "source": row.source,
        }
        for name, row in METHODS.items()
    ]


def markdown_table() -> str:
    """Return the table in Markdown, as docs/methods/table.md holds it."""
    columns = ("method", "name", "residual", "weight", "evaluations", "paper", "numbers from")
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for row in table_rows():
        arxiv = METHODS[row["method"]].arxiv
        cells = [
            f"`{row['method']}`",
            row["name"],
            f"`{row['residual'].replace('|', '/')}`",
            f"`{row['weight']}`",
            row["evaluations"],
            f"[{arxiv}](https://arxiv.org/abs/{arxiv})",
            row["source"],
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    import sys

    sys.stdout.write(markdown_table())
